"""How full disks are, as messages say it."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

from afcore.errors import StorageFullError, causes

__all__ = ["disk_space", "fullest", "is_full", "temporary_files_full"]

_CODES = (errno.ENOSPC, errno.EDQUOT)
_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
"""Of libraries that pass on the text of the error alone: safetensors, shutil, SQLite."""


def is_full(error: BaseException) -> bool:
    """Whether an exception, or what it was raised from, says that a disk is full."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _CODES)
        or any(words in str(cause) for words in _WORDS)
        for cause in causes(error)
    )


def disk_space(path: str | Path) -> str:
    """Which disk a path is on, and how much of it is free.

    Args:
        path: it need not be there.
    """
    place = _existing(path)
    usage, inodes = shutil.disk_usage(place), os.statvfs(place)
    while not place.is_mount():
        place = place.parent
    text = f"of {usage.total / 1e6:.1f} MB on the disk at {place}, {usage.free / 1e6:.1f} are free"
    if inodes.f_files and not inodes.f_favail:
        text += ", but it takes no more files"
    return text


def fullest(*paths: str | Path) -> Path:
    """Of some paths that might be meant, the one on the disk with the least room."""
    return min(map(_existing, paths), key=lambda place: shutil.disk_usage(place).free)


def temporary_files_full(error: BaseException) -> StorageFullError | None:
    """What a user should see where temporary files did not fit; None where that is not it."""
    if not is_full(error):
        return None
    return StorageFullError(
        f"no space left for temporary files: {disk_space(tempfile.gettempdir())}. Free some, or "
        "point TMPDIR elsewhere; what was committed is kept, and the same command goes on from "
        "there."
    )


def _existing(path: str | Path) -> Path:
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return place
