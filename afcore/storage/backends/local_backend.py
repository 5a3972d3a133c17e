"""Objects as files of this machine: there whole or not at all, created by one of several."""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from afcore.errors import StoreError
from afcore.storage.backends.backend import (
    PIECE_BYTES,
    Backend,
    Seen,
    map_file,
    read_pieces,
    unseen,
)
from afcore.storage.stored import Found, Stored

__all__ = ["LocalBackend"]

_TRIES = 10
_CHANGED = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
"""What deleting a folder says when something in it came or went meanwhile."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What ``link`` says where a file system has no hard links (FAT and many network shares)."""


class LocalBackend(Backend):
    """Files below a folder. No file is ever changed: a write replaces a name."""

    def put(self, path: str, data: bytes | memoryview, seen: Seen) -> None:
        """Through a draft, which takes the name when it is whole."""
        with _draft_of(Path(path), data, seen) as draft:
            os.replace(draft, path)

    def create(self, path: str, data: bytes) -> None:
        """Through a draft, which gets the name as a second one."""
        with _draft_of(Path(path), data, unseen) as draft:
            self._link(draft, path)

    def get_into(self, path: str, out: memoryview, seen: Seen) -> int:
        """Piece by piece."""
        with open(path, "rb", buffering=0) as file:
            return read_pieces(file, out, seen)

    def mapped(self, path: str) -> memoryview:
        """The file itself."""
        return map_file(path)

    def walk(self, folder: str) -> Iterator[Found]:
        """A folder at a time; drafts are left out."""
        for path, stored in _files(folder):
            if not path.endswith(".draft"):
                yield path, stored

    def drafts(self) -> dict[str, Stored]:
        """Files beside the objects that they were to be."""
        root, found = Path(self.root), {}
        for path in sorted(root.rglob("*.draft")):
            with contextlib.suppress(FileNotFoundError):  # its writer is done
                status = path.stat()
                if stat.S_ISREG(status.st_mode):  # a folder is none of ours, but a model's, say
                    key = path.relative_to(root).as_posix()
                    found[key] = Stored(status.st_size, status.st_mtime)
        return found

    def disk(self, path: str) -> str | None:
        """Its own."""
        return path

    def delete_all(self, paths: Iterable[str]) -> None:
        """With the folders that nothing is left in."""
        for path in paths:
            super().delete_all([path])
            _remove_empty(Path(path).parent, Path(self.root))

    def delete_folder(self, folder: str) -> None:
        """Also what others write to it, or delete of it, meanwhile."""
        _remove_tree(Path(folder))

    def copy(self, source: str, target: str) -> None:
        """One file with two names."""
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_path(Path(target))
        try:
            self._link(source, draft)
            os.replace(draft, target)
        finally:  # it stays where both are names of one file already
            draft.unlink(missing_ok=True)

    def _link(self, source: str | Path, target: str | Path) -> None:
        """Give a file another name, if nothing has it.

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
                f"store {self.root}: its file system has no hard links ({error.strerror}), by "
                "which one of several processes gets a run. Point `store` at a folder of another "
                "file system, or at S3."
            ) from error


@contextlib.contextmanager
def _draft_of(target: Path, data: bytes | memoryview, seen: Seen) -> Iterator[Path]:
    """Within it, a file beside ``target`` that holds ``data``; gone after it."""
    draft = _draft_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_file(draft, memoryview(data), seen)
        except FileNotFoundError:  # who deleted the last file in it took the folder away
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_file(draft, memoryview(data), seen)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _draft_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")


def _write_file(path: Path, data: memoryview, seen: Seen) -> None:
    with open(path, "wb", buffering=0) as file:
        done = 0
        while done < len(data):
            count = file.write(data[done : done + PIECE_BYTES])
            seen(data[done : done + count])
            done += count


def _files(folder: str) -> Iterator[Found]:
    """All below a folder, sorted by path; none where there is no folder."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=_sorted_by)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
            continue
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            status = entry.stat()
            yield entry.path, Stored(status.st_size, status.st_mtime)


def _sorted_by(entry: "os.DirEntry[str]") -> str:
    """As their whole paths are sorted: what is in the folder ``a`` comes after ``a-b``."""
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _remove_empty(folder: Path, root: Path) -> None:
    """A folder and those above it, as far as nothing else is in them; ``root`` stays."""
    with contextlib.suppress(OSError):
        while folder != root:
            folder.rmdir()
            folder = folder.parent


def _remove_tree(folder: Path) -> None:
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
