"""Log records reach people as lines while a block runs, once each."""

import logging

import pytest

from mkd.cli.log_lines import named_lines, route_log_lines

log = logging.getLogger("mkd.some.part")


def test_records_become_lines_of_the_innermost_block():
    """Each record once: by the block of the longest name; nothing afterwards, and the level is as before."""
    outer, inner = [], []
    with route_log_lines(outer.append):
        log.info("one of %d", 3)
        with route_log_lines(inner.append, "mkd.some"):
            log.warning("two")
            logging.getLogger("mkd.other").info("three")
            log.debug("not shown")
        with route_log_lines(inner.append):
            log.info("four")
        log.info("five")
    log.warning("six")
    assert outer == ["one of 3", "three", "five"]
    assert inner == ["two", "four"]
    assert not logging.getLogger("mkd").handlers
    assert logging.getLogger("mkd.some").level == logging.NOTSET


def test_a_block_that_fails_ends_its_route():
    """An exception leaves no handler behind."""
    with pytest.raises(ValueError, match="x"), route_log_lines(print):
        raise ValueError("x")
    assert not logging.getLogger("mkd").handlers


def test_a_line_that_cannot_be_printed_harms_nobody(capsys):
    """The thread that logs goes on; `logging` reports the error on stderr."""

    def closed(text):
        raise OSError("closed")

    with route_log_lines(closed):
        log.info("one")
    assert "OSError: closed" in capsys.readouterr().err


def test_lines_are_named_whole(capsys):
    """Each line gets the name once, however it is written; afterwards none does."""
    with named_lines("ssl seed1: "):
        print("step", end=" ")
        print("1\nstep 2")
    print("end")
    assert capsys.readouterr().out == "ssl seed1: step 1\nssl seed1: step 2\nend\n"
