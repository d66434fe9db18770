"""Errors that no waiting mends: one sentence each; those that may pass are left to patience."""

import errno

import pytest

from mkd.storage.retry_policy import raise_if_permanent


def s3_error(code, status, kind=OSError, words="what s3fs makes of it"):
    """Make an error as s3fs raises it: the server's answer hangs on its cause."""
    cause = RuntimeError(f"An error occurred ({code}) when calling the GetObject operation")
    cause.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = kind(words)
    error.__cause__ = cause
    return error


FINAL = {
    "another region": (s3_error("PermanentRedirect", 301), "check AWS_REGION and AWS_ENDPOINT_URL"),
    "a redirect to nowhere": (RecursionError("maximum recursion depth"), "another region or behind another"),
    "a token that is none": (s3_error("InvalidToken", 400), "access denied"),
    "a token of yesterday": (s3_error("ExpiredToken", 400), "access denied"),
    "a login that ended": (type("UnauthorizedSSOTokenError", (Exception,), {})("expired"), "access denied"),
    "no bucket": (s3_error("NoSuchBucket", 404), "there is no such bucket"),
    "a bad request": (s3_error("InvalidArgument", 400), "the server refuses"),
}


@pytest.mark.parametrize("case", FINAL)
def test_what_no_waiting_mends_is_one_sentence(case):
    """It begins with the URL and says what to check."""
    error, words = FINAL[case]
    with pytest.raises(ValueError, match=words) as caught:
        raise_if_permanent(error, "s3://bkt/a")
    assert str(caught.value).startswith("s3://bkt/a: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [FileNotFoundError("a"), OSError(errno.ENOSPC, "full"), TypeError("a")])
def test_what_says_enough_is_raised_as_it_is(error):
    with pytest.raises(type(error)) as caught:
        raise_if_permanent(error, "s3://bkt/a")
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [s3_error("SlowDown", 503), s3_error("RequestTimeout", 400), ConnectionError("x"), TimeoutError()],
)
def test_what_may_pass_is_left_to_patience(error):
    raise_if_permanent(error, "s3://bkt/a")
