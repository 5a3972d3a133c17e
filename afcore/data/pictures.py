"""Pictures of a data set, not yet opened: where each lies, and what its bytes are called."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from afcore.data.column_file import ColumnFile
from afcore.data.table import Table
from afcore.errors import DataError

__all__ = ["Picture", "read_pictures"]

_WIDE_MODES = ("I", "F")
"""How PIL's names begin of pictures with one number of more than 8 bits a pixel."""
_BRIGHTEST = 2**16 - 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by EXIF's orientation."""


@dataclass(frozen=True)
class Picture:
    """A picture, told from others by its bytes.

    Attributes:
        digest: sha256 of its file, hexadecimal.
        where: path or URL of the file; None: ``content``.
        content: of the file, where the data set holds it itself.
    """

    digest: str
    where: str | None = None
    content: bytes | memoryview | None = None

    def __str__(self) -> str:
        return self.digest

    def open(self) -> Any:
        """A ``PIL.Image`` of three colours, turned upright as its EXIF data say.

        Raises:
            OSError: when it is no picture.
            DataError: when it is too large, or its numbers are no brightness of 16 bits; what is
                said follows the picture's name.
        """
        content = self.content if self.where is None else _bytes(self.where)
        assert content is not None
        try:
            picture = Image.open(io.BytesIO(content))
        except Image.DecompressionBombError as error:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise DataError(f"has more than {most} pixels. Make it smaller") from error
        return _of_eight_bits(_upright(picture)).convert("RGB")


def read_pictures(source: str, key: str, column: str, table: Table) -> list[Any]:
    """A column of paths, relative to the file that names them, or of files' contents.

    Raises:
        DataError: for one that cannot be read.
    """
    known, contents = list[tuple[str, str | None]](), ColumnFile(np.uint8)
    for row, value in enumerate(table.columns[column]):
        files = table.places.files
        where, content = _located(source if files is None else files[row], value)
        try:
            if where is not None:
                content = _bytes(where)
        except Exception as error:  # of any file system
            raise DataError(
                f"data {source!r}: column {column!r} names the picture {where!r} in "
                f"{table.places.name(row)}, which cannot be read "
                f"({type(error).__name__}). Paths are relative to the file that names them; name "
                f"another column with data.{key}."
            ) from error
        if content is None:
            raise DataError(
                f"data {source!r}: column {column!r} holds {str(value)[:40]!r} in "
                f"{table.places.name(row)}, which is no picture. Give a path, or name another "
                f"column with data.{key}."
            )
        known.append((hashlib.sha256(content).hexdigest(), where))
        contents.add([np.asarray(memoryview(content if where is None else b""))])
    held = contents.column()
    return [
        Picture(digest, where, held.row(number).data if where is None else None)
        for number, (digest, where) in enumerate(known)
    ]


def _upright(picture: Any) -> Any:
    """Turned as its EXIF data say; where these are damaged, as it is."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever Pillow raises of them
        return picture
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _of_eight_bits(picture: Any) -> Any:
    """Itself; of a gray one of 16 bits what it is in 8, where PIL makes nearly all of it white."""
    if not picture.mode.startswith(_WIDE_MODES):
        return picture
    brightness = np.asarray(picture)
    if picture.mode == "F" or brightness.min() < 0 or brightness.max() > _BRIGHTEST:
        raise DataError("holds numbers that are no brightness of 16 bits. Save it with 8 or 16")
    rounded = (brightness.astype(np.int64) * 255 + _BRIGHTEST // 2) // _BRIGHTEST
    return Image.fromarray(rounded.astype(np.uint8))


def _located(source: str, value: Any) -> tuple[str | None, bytes | None]:
    """(path or URL, contents), one of them or none."""
    if isinstance(value, dict):  # as ``datasets`` has pictures
        if (held := value.get("bytes")) is not None:
            return None, held if isinstance(held, bytes) else None
        value = value.get("path")
    if isinstance(value, bytes):
        return None, value
    if isinstance(value, np.ndarray | Image.Image):  # of rows that are held in memory
        return None, _encoded(value)
    if not isinstance(value, str) or not value.strip():
        return None, None
    if "://" in value or PurePath(value).is_absolute():
        return value, None
    folder, slash, _ = source.rpartition("/")
    return f"{folder}{slash}{value}", None


def _bytes(where: str) -> bytes:
    with fsspec.open(where, "rb") as file:
        content: bytes = file.read()
    return content


def _encoded(pixels: "npt.NDArray[Any] | Image.Image") -> bytes | None:
    """None: such numbers, or colours, are no picture of PIL's, or of a PNG."""
    file = io.BytesIO()
    try:
        picture = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
        # Without EXIF data, which would turn it again.
        _upright(picture).save(file, "PNG", exif=b"")
    except (OSError, TypeError, ValueError):
        return None
    return file.getvalue()
