"""A config beside one that was written before: what differs, what may, and what an older version wrote."""

from dataclasses import replace

import pytest

from mkd.config.comparison import _resumable_keys, difference
from mkd.config.load import to_yaml
from mkd.config.schema import DataConfig, KdRun, SemiConfig, SemiRun, SupervisedRun, TeacherConfig

CONFIGS = {
    "supervised": SupervisedRun(out="run", data=DataConfig(labelled="tiles")),
    "kd": KdRun(out="run", data=DataConfig(labelled="tiles", scale=(1.0, 1.0))),
    "semi": SemiRun(out="run", data=DataConfig(labelled="tiles"), semi=SemiConfig(start="model")),
}


@pytest.mark.parametrize("stage", CONFIGS)
def test_a_config_equals_what_was_written_of_it(stage):
    """Tuples become lists in YAML, which is no difference."""
    assert difference(to_yaml(CONFIGS[stage]), CONFIGS[stage]) == ""


@pytest.mark.parametrize("stage", CONFIGS)
def test_a_key_that_is_newer_counts_with_its_default(stage):
    """An older version wrote no data.micro and no section optim: no difference at the defaults, else one."""
    config = CONFIGS[stage]
    lines = to_yaml(config).splitlines()
    first, last = lines.index("optim:"), lines.index("ohem:")
    old = "\n".join(line for line in lines[:first] + lines[last:] if not line.startswith("  micro:"))
    assert difference(old, config) == ""
    other = replace(config, optim=replace(config.optim, lr=0.5), data=replace(config.data, micro=2))
    assert (
        difference(old, other) == f"there micro: null; now micro: 2; there lr: {config.optim.lr}; now lr: 0.5"
    )


def test_a_key_that_is_no_more_is_a_difference():
    """What an older version was told, and this one does not know, is shown."""
    config = CONFIGS["supervised"]
    assert difference(to_yaml(config) + "mixup: 0.2\n", config) == "there mixup: 0.2"


def test_values_are_shown_as_in_yaml():
    """Lists, text and nothing, each on one line."""
    config = CONFIGS["kd"]
    other = replace(config, data=replace(config.data, scale=(0.5, 2.0), val="a: b"))
    shown = difference(to_yaml(config), other)
    assert shown == "there val: null; now val: 'a: b'; there scale: [1.0, 1.0]; now scale: [0.5, 2.0]"


def test_the_words_for_both_sides():
    """Ranks are named otherwise than run folders."""
    config = CONFIGS["supervised"]
    shown = difference(to_yaml(config), replace(config, seed=3), there="rank 0:", now="here:")
    assert shown == "rank 0: seed: 0; here: seed: 3"


def test_what_may_change_at_a_resume():
    """Speed, what is kept and shown, where services are: these keys and no others."""
    top = {"out", "device", "engine", "compile", "log_every", "save_every", "keep_every", "keep"}
    top |= {"accept", "extend", "model.checkpointing"}
    data = {
        f"data.{name}" for name in ("workers", "max_bad", "max_pixels", "one_class", "cache", "cache_gib")
    }
    teacher = {f"teacher.{name}" for name in ("endpoints", "token_file", "tls_ca", "patience", "ledger")}
    assert _resumable_keys(SupervisedRun) == _resumable_keys(KdRun) == top | data
    assert _resumable_keys(SemiRun) == top | data | teacher
    moved = TeacherConfig(endpoints=["b:2"], patience=1.0, ledger=True)
    config = CONFIGS["semi"]
    assert difference(to_yaml(config), replace(config, teacher=moved, log_every=1)) == ""
