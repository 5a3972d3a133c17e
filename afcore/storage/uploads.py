"""Objects written elsewhere, through fsspec: large ones in parts, new ones by one of several."""

from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from afcore.storage.explain import s3_status

__all__ = ["create", "upload"]

_PART_BYTES, _PARTS_AT_ONCE = 50 * 2**20, 4
"""Of what goes to S3 in parts, as s3fs cuts what has two at least; and how many are in memory."""
_PRECONDITION_FAILED, _CONFLICT = 412, 409
# Of several that create an object at the same moment S3 may answer some that it cannot tell yet.
_undecided = Retrying(
    retry=retry_if_exception(lambda error: s3_status(error) == _CONFLICT),
    stop=stop_after_attempt(10),
    wait=wait_random_exponential(multiplier=0.05, max=1.0),
    reraise=True,
)


def upload(file_system: Any, protocol: str, path: str, data: bytes | memoryview) -> None:
    """Write an object whole, replacing what was there.

    Args:
        file_system: of fsspec.
        protocol: by which it is known.
        path: of the object.
        data: its bytes; mapped from a file, they are never in memory all at once on their way to
            S3.
    """
    if protocol == "s3" and len(data) >= 2 * _PART_BYTES:
        parts = {"chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        file_system.pipe_file(path, _CopiedInParts(memoryview(data)), **parts)
    else:
        file_system.pipe_file(path, bytes(data))


def create(file_system: Any, path: str, data: bytes) -> None:
    """Write an object if there is none.

    Raises:
        FileExistsError: when there is one, whatever the server says beside its status: s3fs knows
            one answer alone, with the condition that was not met, as S3 of Amazon names it.
    """
    _undecided(_create, file_system, path, data)


def _create(file_system: Any, path: str, data: bytes) -> None:
    try:
        file_system.pipe_file(path, data, mode="create")
    except OSError as error:
        if s3_status(error) == _PRECONDITION_FAILED:
            raise FileExistsError(path) from error
        raise


class _CopiedInParts:
    """Bytes as s3fs cuts them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._data[part])
