"""Objects as files of this machine: there whole or not at all, created by one of several."""

import contextlib
import errno
import mmap
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from afcore.errors import StoreError
from afcore.storage.listing import Stored

__all__ = [
    "Seen",
    "draft_of",
    "find_drafts",
    "link_file",
    "map_file",
    "read_pieces",
    "remove_empty",
    "remove_tree",
    "share_file",
    "unseen",
]

Seen = Callable[[memoryview], object]
"""Gets bytes piece by piece, each while it is in the processor's cache."""
_PIECE_BYTES = 2**20
_TRIES = 10
_CHANGED = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
"""What deleting a folder says when something in it came or went meanwhile."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What ``link`` says where a file system has no hard links (FAT and many network shares)."""


@contextlib.contextmanager
def draft_of(target: Path, data: bytes | memoryview, seen: Seen | None = None) -> Iterator[Path]:
    """Within it, a file beside ``target`` that holds ``data``; gone after it."""
    draft = _draft_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_file(draft, memoryview(data), seen or unseen)
        except FileNotFoundError:  # who deleted the last file in it took the folder away
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_file(draft, memoryview(data), seen or unseen)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def link_file(source: Path, target: Path, root: str) -> None:
    """Give a file another name, if nothing has it.

    Args:
        source: its name.
        target: the other one.
        root: of the store, for who reads the message.

    Raises:
        FileExistsError: when something has the name.
        StoreError: when the file system has no hard links.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise StoreError(
            f"store {root}: its file system has no hard links ({error.strerror}), by "
            "which one of several processes gets a run. Point `store` at a folder of another "
            "file system, or at S3."
        ) from error


def share_file(source: Path, target: Path, root: str) -> None:
    """As :func:`link_file`, in the place of what has the name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_path(target)
    try:
        link_file(source, draft, root)
        os.replace(draft, target)
    finally:  # it stays where both are names of one file already
        draft.unlink(missing_ok=True)


def find_drafts(root: Path) -> dict[str, Stored]:
    """The drafts that killed writers left below a folder, or that live ones use."""
    found = {}
    for path in sorted(root.rglob("*.draft")):
        with contextlib.suppress(FileNotFoundError):  # its writer is done
            status = path.stat()
            if stat.S_ISREG(status.st_mode):  # a folder is none of ours, but a model's, say
                key = path.relative_to(root).as_posix()
                found[key] = Stored(status.st_size, status.st_mtime)
    return found


def remove_empty(folder: Path, root: Path) -> None:
    """A folder and those above it, as far as nothing else is in them; ``root`` stays."""
    with contextlib.suppress(OSError):
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def remove_tree(folder: Path) -> None:
    """A folder with all that is in it, also what others write to it, or delete of it, meanwhile.

    Raises:
        FileNotFoundError: when there is none.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            is_gone = isinstance(error, FileNotFoundError) and not folder.exists()
            if is_gone or error.errno not in _CHANGED or not tries_left:
                raise
        else:
            return


def map_file(path: str) -> memoryview:
    """A file's bytes, read when they are looked at; what is written to them changes no file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if size else b"")


def read_pieces(source: Any, out: memoryview, seen: Seen) -> int:
    """Fill ``out`` from an open file; how many bytes there were."""
    done = 0
    while done < len(out) and (count := source.readinto(out[done : done + _PIECE_BYTES])):
        seen(out[done : done + count])
        done += count
    return done


def unseen(_piece: memoryview) -> None:
    """For who has no use for the bytes as they pass."""


def _draft_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")


def _write_file(path: Path, data: memoryview, seen: Seen) -> None:
    with open(path, "wb", buffering=0) as file:
        done = 0
        while done < len(data):
            count = file.write(data[done : done + _PIECE_BYTES])
            seen(data[done : done + count])
            done += count
