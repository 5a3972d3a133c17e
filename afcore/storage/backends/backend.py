"""Objects of any file system of fsspec; places of which more is known have a file beside this."""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from afcore.disk_space import temporary_files_full
from afcore.storage.stored import Found, Stored

__all__ = ["PIECE_BYTES", "Backend", "Part", "Seen", "map_file", "read_pieces", "unseen"]

Seen = Callable[[memoryview], object]
"""Gets bytes piece by piece, each while it is in the processor's cache."""
PIECE_BYTES = 2**20
Part = Callable[[str, Callable[[], Any]], Any]
"""Sends one request of many; the verb is for the message where it fails."""


class Backend:
    """Objects by their whole paths.

    Methods raise what the file system does, a FileNotFoundError where there is none among it;
    :class:`.objects.Storage` explains it.

    Args:
        file_system: of fsspec.
        root: the path of the store's root.
        part: sends requests of which there are more the more objects there are.
    """

    def __init__(self, file_system: Any, root: str, part: Part) -> None:
        self.file_system = file_system
        self.root = root
        self.part = part

    def put(self, path: str, data: bytes | memoryview, seen: Seen) -> None:
        """Write an object whole, replacing what was there."""
        self.file_system.pipe_file(path, bytes(data))
        seen(memoryview(data))

    def create(self, path: str, data: bytes) -> None:
        """Write an object if there is none.

        Raises:
            FileExistsError: when there is one.
        """
        self.file_system.pipe_file(path, data, mode="create")

    def get(self, path: str) -> bytes:
        """Read an object whole."""
        data: bytes = self.file_system.cat_file(path)
        return data

    def get_into(self, path: str, out: memoryview, seen: Seen) -> int:
        """Read an object into memory that is there; how many bytes there were."""
        data: bytes = self.file_system.cat_file(path, start=0, end=len(out))
        out[: len(data)] = data
        seen(out[: len(data)])
        return len(data)

    def mapped(self, path: str) -> memoryview:
        """An object as a file of this machine that is mapped into memory: a copy, soon nameless."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                copy = f"{folder}/object"
                self.file_system.get_file(path, copy)
                return map_file(copy)
        except OSError as error:
            raise temporary_files_full(error) or error from error

    def stored(self, path: str) -> Stored | None:
        """What is known of an object; None: there is none."""
        try:
            found = self.file_system.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _stored(found) if found["type"] == "file" else None

    def walk(self, folder: str) -> Iterator[Found]:
        """Objects below a folder, sorted by path; none where there is no folder."""
        for path, found in sorted(self.file_system.find(folder, detail=True).items()):
            # Some give the folder itself when the first object comes while it is listed.
            if found["type"] != "directory":
                yield path, _stored(found)

    def folders(self, folder: str) -> Iterator[str]:
        """Names of the folders right below a folder that hold something; none of it is read."""
        try:
            entries = self.file_system.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = entry["name"].rpartition("/")[2]
            # Where folders are things, one may be left of which all objects were deleted.
            if entry["type"] == "directory" and next(self.walk(f"{folder}/{name}"), None):
                yield name

    def drafts(self) -> dict[str, Stored]:
        """By keys, what killed writers left of objects, or live ones use, on a disk of ours."""
        return {}

    def disk(self, path: str) -> str | None:
        """A path on the disk of this machine where an object lies; None: it lies elsewhere."""
        return None

    def delete(self, path: str) -> None:
        """Delete an object."""
        self.file_system.rm_file(path)

    def delete_all(self, paths: Iterable[str]) -> None:
        """Delete objects by as few requests as there are; none of a name is no error."""
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                self.delete(path)

    def delete_folder(self, folder: str) -> None:
        """Delete what is below a folder."""
        self.file_system.rm(folder, recursive=True)

    def copy(self, source: str, target: str) -> None:
        """Give an object another name as well; what had that name is replaced."""
        self.file_system.cp_file(source, target)


def map_file(path: str) -> memoryview:
    """A file's bytes, read when they are looked at; what is written to them changes no file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b"")


def read_pieces(source: Any, out: memoryview, seen: Seen) -> int:
    """Fill ``out`` from an open file; how many bytes there were."""
    done = 0
    while done < len(out) and (count := source.readinto(out[done : done + PIECE_BYTES])):
        seen(out[done : done + count])
        done += count
    return done


def unseen(_piece: memoryview) -> None:
    """For who has no use for the bytes as they pass."""


def _stored(info: dict[str, Any]) -> Stored:
    """By what the file systems of fsspec call the time at which an object was written."""
    moment: Any = info.get("mtime", info.get("LastModified", info.get("created")))
    seconds = moment if isinstance(moment, int | float) else moment.timestamp()
    return Stored(int(info["size"]), float(seconds))
