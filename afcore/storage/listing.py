"""What lies below a folder, as it comes: a page of S3, a folder of a disk. Never all of it at once.

So a listing of a million objects takes the memory of one page, and what its reader keeps.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

__all__ = [
    "Found",
    "S3Listing",
    "Stored",
    "StoredSum",
    "check_refusals",
    "local_objects",
    "other_objects",
    "time_of",
]

_PAGE_KEYS = 1000
"""What S3 gives, or deletes, at a time."""


@dataclass(frozen=True)
class Stored:
    """An object as a listing tells it: bytes, and when it was written, seconds since the epoch."""

    num_bytes: int
    modified: float


@dataclass
class StoredSum:
    """What some objects add up to: bytes, and when one was last written (since the epoch)."""

    num_bytes: int = 0
    modified: float = 0.0

    def add(self, stored: Stored) -> None:
        """One more."""
        self.num_bytes += stored.num_bytes
        self.modified = max(self.modified, stored.modified)

    def idle(self, now: float) -> float:
        """Seconds since something was last written."""
        return now - self.modified


Found: TypeAlias = tuple[str, Stored]
"""The path of an object, and what is known of it."""
Ask: TypeAlias = Callable[..., dict[str, Any]]


def local_objects(folder: str) -> Iterator[Found]:
    """Files below a folder of this machine, sorted by path; none where there is no folder."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=_sorted_by)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from local_objects(entry.path)
            continue
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            status = entry.stat()
            yield entry.path, Stored(status.st_size, status.st_mtime)


def _sorted_by(entry: "os.DirEntry[str]") -> str:
    """As their whole paths are sorted: what is in the folder ``a`` comes after ``a-b``."""
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def other_objects(file_system: Any, folder: str) -> Iterator[Found]:
    """Objects below a folder of any file system of fsspec, sorted by path; it gives all at once."""
    for path, info in sorted(file_system.find(folder, detail=True).items()):
        # Some give the folder itself when the first object comes while it is listed.
        if info["type"] != "directory":
            yield path, Stored(int(info["size"]), time_of(info))


def time_of(info: dict[str, Any]) -> float:
    """When an object was written, by what the file systems of fsspec call it."""
    moment: Any = info.get("mtime", info.get("LastModified", info.get("created")))
    return float(moment if isinstance(moment, int | float) else moment.timestamp())


class S3Listing:
    """Many objects of S3 by one request.

    s3fs lists into one dictionary, and says nothing of objects that it was not allowed to delete.

    Args:
        file_system: an ``s3fs.S3FileSystem``; its requests are tried again as s3fs does.
        ask: sends a request: its name as botocore has it, and its arguments.
    """

    def __init__(self, file_system: Any, ask: Ask) -> None:
        self._file_system = file_system
        self._ask = ask

    def objects(self, folder: str) -> Iterator[Found]:
        """Objects below ``bucket/folder``, sorted by path; a page is asked for when it is due."""
        bucket, _, prefix = folder.partition("/")
        for page in self._pages(bucket, prefix):
            for entry in page.get("Contents", ()):
                stored = Stored(int(entry["Size"]), entry["LastModified"].timestamp())
                yield f"{bucket}/{entry['Key']}", stored

    def folders(self, folder: str) -> Iterator[str]:
        """Names of the folders right below ``bucket/folder``; what is in them is not listed."""
        bucket, _, prefix = folder.partition("/")
        for page in self._pages(bucket, prefix, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"].rstrip("/").rpartition("/")[2]

    def _pages(self, bucket: str, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        more |= {"Bucket": bucket, "Prefix": prefix, "MaxKeys": _PAGE_KEYS}
        while True:
            page = self._ask("list_objects_v2", **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, a thousand by a request; none of a name is no error."""
        left = iter(paths)
        while batch := list(islice(left, _PAGE_KEYS)):
            bucket = batch[0].partition("/")[0]
            keys = [{"Key": path.partition("/")[2]} for path in batch]
            self._ask("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def check_refusals(answer: dict[str, Any]) -> None:
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
