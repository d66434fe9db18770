"""Which errors of a file system no waiting mends, and what to say of them."""

from __future__ import annotations

import errno
from collections.abc import Mapping

_FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
)
_FAULTS = (TypeError, AttributeError, LookupError, NotImplementedError, MemoryError)  # no waiting mends them
_PASSING = (408, 409, 425, 429, "RequestTimeout", "IncompleteBody", "BadDigest")  # though their kind is final
_KEYS = (  # what errors are called, or their codes, when it is the keys that are wrong
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoCredentials", "PartialCredentials",
    "CredentialRetrieval", "ProfileNotFound", "SSOTokenLoad", "UnauthorizedSSOToken", "TokenRetrieval",
    "InvalidToken", "ExpiredToken",
)  # fmt: skip
_ADVICE = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the rights on this bucket"


def raise_if_permanent(error: Exception, path: str) -> None:
    """Raise what no waiting mends: a missing file as it is, a refusal as one sentence; return for what may pass.

    Args:
        error: of a file system.
        path: full URL, for the sentence.
    """
    text = f"{type(error).__name__} {error} {error.__cause__}"  # the cause has the server's code
    code, status = answer(error)
    if (sentence := _refusal(error, text)) is not None:
        raise ValueError(f"{path}: {sentence}") from None
    if status == 412:
        raise FileExistsError(path) from None
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise error
    if isinstance(error, (*_FINAL, *_FAULTS)):
        raise error
    if 300 <= status < 500 and status not in _PASSING and code not in _PASSING:
        raise ValueError(
            f"{path}: the server refuses ({short(error)}); check this URL, the endpoint (AWS_ENDPOINT_URL) and the "
            "region"
        ) from None


def _refusal(error: Exception, text: str) -> str | None:
    if isinstance(error, PermissionError) or any(word in text for word in _KEYS):
        return f"access denied ({short(error)}); {_ADVICE}"
    if "NoSuchBucket" in text or "bucket does not exist" in text:
        return "there is no such bucket; check its name"
    # botocore follows a redirect that does not say where to, again and again
    if "PermanentRedirect" in text or isinstance(error, RecursionError):
        return "the bucket lies in another region or behind another endpoint; check AWS_REGION and AWS_ENDPOINT_URL"
    if text.startswith("ValueError Invalid endpoint"):
        return (
            f"{short(error)[:1].lower()}{short(error)[1:]}; AWS_ENDPOINT_URL needs the form http://HOST:PORT"
        )
    return None


def answer(error: Exception) -> tuple[str, int]:
    """Return the server's error code and HTTP status, as S3's or aiohttp's errors tell them; "" and 0 without one."""
    told = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if not isinstance(told, Mapping):
        return "", getattr(error, "status", 0)
    status = told.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(told.get("Error", {}).get("Code", "")), int(status)


def short(error: BaseException) -> str:
    """Return an error's first line, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
