"""Retries requests to a file system: which errors may pass, which are permanent, and what to say of those."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

_PERMANENT = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
)
_PROGRAM_ERRORS = (TypeError, AttributeError, LookupError, NotImplementedError, MemoryError)
# Codes that may pass, though others of their class (4xx) are permanent.
_TRANSIENT = (408, 409, 425, 429, "RequestTimeout", "IncompleteBody", "BadDigest")
_CREDENTIAL_ERRORS = (  # names or codes of errors when the keys are wrong
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoCredentials", "PartialCredentials",
    "CredentialRetrieval", "ProfileNotFound", "SSOTokenLoad", "UnauthorizedSSOToken", "TokenRetrieval",
    "InvalidToken", "ExpiredToken",
)  # fmt: skip
_CREDENTIAL_ADVICE = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the rights on this bucket"
)

log = logging.getLogger(__name__)
T = TypeVar("T")


def call_with_retries(call: Callable[[], T], patience: float, path: str) -> T:
    """Call until it succeeds; wait about 0.5, 1, 2, 4, 8, 8, .. s between tries.

    Waits are random by a quarter, so that the processes of a run do not ask an overloaded server all at once.

    Args:
        call: a request to a file system.
        patience: seconds after the first try in which errors that may pass are tried again.
        path: full URL, for messages.

    Raises:
        ValueError: the server refuses, or patience is over: one sentence.
        Exception: any other permanent error, as it is.
    """
    deadline, wait = time.monotonic() + patience, 0.5
    while True:
        try:
            return call()
        except Exception as error:  # each file system has errors of its own
            raise_if_permanent(error, path)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise ValueError(
                    f"{path}: no answer for {patience:.0f} s ({first_line(error)}); "
                    "check the network, the endpoint (AWS_ENDPOINT_URL) and the server, then start again"
                ) from None
            pause = min(wait * random.uniform(0.75, 1.25), remaining)
            log.warning(
                "%s: %s; trying again in %.1f s, for %.0f s more", path, first_line(error), pause, remaining
            )
            time.sleep(pause)
            wait = min(2 * wait, 8.0)


def raise_if_permanent(error: Exception, path: str) -> None:
    """Raise a permanent error: a missing file as it is, a refusal as one sentence; return for one that may pass.

    Args:
        error: of a file system.
        path: full URL, for the sentence.

    Raises:
        ValueError: the server refuses: one sentence that says what to check.
        Exception: any other permanent error, as it is.
    """
    text = f"{type(error).__name__} {error} {error.__cause__}"  # the cause has the server's code
    code, status = error_code_and_status(error)
    if (sentence := _refusal(error, text)) is not None:
        raise ValueError(f"{path}: {sentence}") from None
    if status == 412:
        raise FileExistsError(path) from None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise error
    if isinstance(error, (*_PERMANENT, *_PROGRAM_ERRORS)):
        raise error
    if 300 <= status < 500 and status not in _TRANSIENT and code not in _TRANSIENT:
        raise ValueError(
            f"{path}: the server refuses ({first_line(error)}); check this URL, the endpoint "
            "(AWS_ENDPOINT_URL) and the region"
        ) from None


def _refusal(error: Exception, text: str) -> str | None:
    """Return the sentence about wrong keys, bucket, region or endpoint; None for another error."""
    if isinstance(error, PermissionError) or any(word in text for word in _CREDENTIAL_ERRORS):
        return f"access denied ({first_line(error)}); {_CREDENTIAL_ADVICE}"
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return "there is no such bucket; check its name"
    # botocore follows a redirect that does not say where to, again and again
    if "PermanentRedirect" in text or isinstance(error, RecursionError):
        return "the bucket lies in another region or behind another endpoint; check AWS_REGION and AWS_ENDPOINT_URL"
    if text.startswith("ValueError Invalid endpoint"):
        return f"{first_line(error)[:1].lower()}{first_line(error)[1:]}; AWS_ENDPOINT_URL needs the form http://HOST:PORT"
    return None


def error_code_and_status(error: Exception) -> tuple[str, int]:
    """Return the server's error code and HTTP status of an S3 or aiohttp error; "" and 0 without one."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(response, Mapping):
        return "", getattr(error, "status", 0)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status)


def first_line(error: BaseException) -> str:
    """Return an error's first line, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
