"""What file systems and S3 raise, as one message that says what to do."""

import errno
from typing import Any, NoReturn

from afcore.disk_space import disk_space, is_full
from afcore.errors import (
    AutoFreezeError,
    StorageFullError,
    StoreError,
    StoreUnreachableError,
    causes,
    in_one_line,
)

__all__ = ["explain", "raise_explained", "s3_status"]

_BROKE = ("HTTPClientError", "IncompleteReadError", "ProtocolError", "SSLError")
_BUSY = (408, 409, 429)
"""What a server says that would answer another time: a conflict of two writers, too many asked."""


def raise_explained(error: Exception, what: str, disk: str | None = None) -> NoReturn:
    """Raise what :func:`explain` makes of an exception that is being handled."""
    explained = explain(error, what, disk)
    if explained is error:  # as its own cause it would have no end
        raise error
    raise explained from error


def explain(error: Exception, what: str, disk: str | None = None) -> Exception:
    """The exception a user should see for ``error``; itself when it is not about storage.

    Args:
        error: that is being handled.
        what: could not be done.
        disk: a path on the disk that it was to be done on, where it is one of this machine.
    """
    if isinstance(error, AutoFreezeError):  # it was explained where more was known
        return error
    for cause in causes(error):
        name, text = type(cause).__name__, in_one_line(cause)
        if is_full(cause):
            room = f": {disk_space(disk)}" if disk is not None else ""
            return StorageFullError(
                f"{what}: no space left{room}. Free some, or point `store` elsewhere; what was "
                "committed is kept, and the same command goes on from there."
            )
        if name in ("NoCredentialsError", "PartialCredentialsError"):
            return StoreError(
                f"{what}: no S3 credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "AWS_PROFILE, or run where a role gives them."
            )
        read_only = isinstance(cause, OSError) and cause.errno == errno.EROFS
        if isinstance(cause, PermissionError) or read_only or "AccessDenied" in text:
            return StoreError(f"{what}: not allowed ({text}). Check the rights on the store.")
        if isinstance(cause, FileNotFoundError) or "NoSuchBucket" in text:
            return StoreError(f"{what}: {text or 'not found'}. Does the bucket or folder exist?")
        if isinstance(cause, ConnectionError | TimeoutError) or "Connect" in name or _broke(cause):
            return StoreUnreachableError(
                f"{what}: cannot reach the store ({text}). Check the endpoint."
            )
        if name == "ClientError":
            return _explain_s3(cause, f"{what}: {text}")
        if _is_of_settings(cause, text):
            return StoreError(
                f"{what}: {text}. Check AWS_ENDPOINT_URL (http://HOST:PORT), AWS_PROFILE, "
                "AWS_DEFAULT_REGION and the files that they name."
            )
    if isinstance(error, OSError):
        return StoreError(f"{what}: {in_one_line(error)}")
    return error


def s3_status(error: BaseException) -> int:
    """The status of the answer of S3 that an exception was made from; 0: of none."""
    for cause in causes(error):
        if type(cause).__name__ == "ClientError":
            answer: Any = cause
            return int(answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def _is_of_settings(error: BaseException, text: str) -> bool:
    """Whether botocore refuses what it is to work with, before anything is asked of a server."""
    if isinstance(error, ValueError) and text.startswith("Invalid endpoint"):
        return True
    return any(kind.__module__ == "botocore.exceptions" for kind in type(error).__mro__)


def _broke(error: BaseException) -> bool:
    """Whether it is a word of botocore's, urllib3's or aiohttp's for a connection that broke."""
    kinds = type(error).__mro__
    names = {kind.__name__ for kind in kinds}
    return not names.isdisjoint(_BROKE) or any(
        kind.__module__.partition(".")[0] == "aiohttp" for kind in kinds
    )


def _explain_s3(error: Any, what: str) -> AutoFreezeError:
    """An answer of botocore's that is none of the known ones: the server's trouble, or ours."""
    status = s3_status(error)
    if status == 507:  # as MinIO says it
        return StorageFullError(
            f"{what}. Its disk is full: free some, or point `store` elsewhere; what was committed "
            "is kept, and the same command goes on from there."
        )
    is_busy = status >= 500 or status in _BUSY
    if is_busy or error.response["Error"]["Code"] in ("SlowDown", "InternalError"):
        return StoreUnreachableError(f"{what}. The store is in trouble; try again later.")
    return StoreError(f"{what}. Check the credentials, and the rights on the store.")
