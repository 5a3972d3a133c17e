"""Objects of S3, through s3fs: pages of a listing, a thousand deletions by one request.

s3fs lists into one dictionary, and says nothing of objects that it was not allowed to delete; so a
listing of a million objects takes the memory of one page here, and what its reader keeps.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from afcore.storage.backends.backend import Backend, Seen, read_pieces
from afcore.storage.explain import s3_status
from afcore.storage.stored import Found, Stored

if TYPE_CHECKING:
    from afcore.storage.backends.s3_reader import S3Reader

__all__ = ["S3Backend"]

_PAGE_KEYS = 1000
"""What S3 gives, or deletes, at a time."""
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


class S3Backend(Backend):
    """Objects by ``bucket/key``; the file system is an ``s3fs.S3FileSystem``."""

    def put(self, path: str, data: bytes | memoryview, seen: Seen) -> None:
        """A large one in parts: mapped from a file, it is never in memory all at once."""
        if len(data) < 2 * _PART_BYTES:
            super().put(path, data, seen)
            return
        parts = {"chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        self.file_system.pipe_file(path, _CopiedInParts(memoryview(data)), **parts)
        seen(memoryview(data))

    def create(self, path: str, data: bytes) -> None:
        """Whatever the server says beside its status where there is an object.

        s3fs knows one answer alone, with the condition that was not met, as S3 of Amazon names it.
        """
        try:
            _undecided(super().create, path, data)
        except OSError as error:
            if s3_status(error) == _PRECONDITION_FAILED:
                raise FileExistsError(path) from error
            raise

    def get(self, path: str) -> bytes:
        """A record without asking for its size first, as s3fs does to read parts at once."""
        options = {"max_concurrency": 1} if path.endswith(".json") else {}
        data: bytes = self.file_system.cat_file(path, **options)
        return data

    def get_into(self, path: str, out: memoryview, seen: Seen) -> int:
        """Piece by piece."""
        body = self._reader.open(path)
        # Not what it is entered as: it alone notices that a connection ended early.
        with body:
            return read_pieces(body, out, seen)

    def walk(self, folder: str) -> Iterator[Found]:
        """A page is asked for when it is due."""
        bucket = folder.partition("/")[0]
        for page in self._pages(folder):
            for entry in page.get("Contents", ()):
                stored = Stored(int(entry["Size"]), entry["LastModified"].timestamp())
                yield f"{bucket}/{entry['Key']}", stored

    def folders(self, folder: str) -> Iterator[str]:
        """Common prefixes."""
        for page in self._pages(folder, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"].rstrip("/").rpartition("/")[2]

    def delete_all(self, paths: Iterable[str]) -> None:
        """A thousand by a request."""
        left = iter(paths)
        while batch := list(islice(left, _PAGE_KEYS)):
            bucket = batch[0].partition("/")[0]
            keys = [{"Key": path.partition("/")[2]} for path in batch]
            wanted = {"Objects": keys, "Quiet": True}
            self.part("delete", partial(self._delete, bucket, wanted))

    def delete_folder(self, folder: str) -> None:
        """Whatever a listing finds there."""
        self.delete_all(path for path, _ in self.walk(folder))

    def _pages(self, folder: str, **more: Any) -> Iterator[dict[str, Any]]:
        bucket, _, prefix = folder.partition("/")
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        more |= {"Bucket": bucket, "Prefix": prefix, "MaxKeys": _PAGE_KEYS}
        while True:
            question = partial(self.file_system.call_s3, "list_objects_v2", **more)
            page = self.part("list", question)
            yield page
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def _delete(self, bucket: str, wanted: dict[str, Any]) -> None:
        _check_refusals(self.file_system.call_s3("delete_objects", Bucket=bucket, Delete=wanted))

    @cached_property
    def _reader(self) -> "S3Reader":
        from afcore.storage.backends.s3_reader import S3Reader

        return S3Reader(self.file_system)


def _check_refusals(answer: dict[str, Any]) -> None:
    """See that an answer, a success by its status, says of no object that it was refused.

    Raises:
        ClientError: botocore's, with the first one's reason and how many there are.
    """
    from botocore.exceptions import ClientError

    refused = answer.get("Errors")
    if refused:
        first = refused[0]
        reason = f"{first.get('Message', 'no reason given')}: {first.get('Key')}"
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        error = {"Code": first.get("Code", "Unknown"), "Message": f"{reason}{more}"}
        raise ClientError({"Error": error}, "DeleteObjects")


class _CopiedInParts:
    """Bytes as s3fs cuts them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._data[part])
