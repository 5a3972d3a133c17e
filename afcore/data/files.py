"""Opens files of rows: here or elsewhere, packed or not, and always what is there now.

``datasets`` is not asked for files: it takes a name for a pattern, guesses types, and reads a copy
of before where a file's time has not changed (docs/decisions/0029).
"""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import os
import re
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import aiohttp
import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from afcore.data.formats import Columns, read_csv, read_json
from afcore.data.stored_values import AT_ONCE
from afcore.data.table import Parts, Table, read_tables
from afcore.data.typed_formats import read_arrow, read_parquet
from afcore.disk_space import temporary_files_full
from afcore.errors import DataError, causes

__all__ = [
    "COMPRESSIONS",
    "FORMATS",
    "file_format",
    "is_pattern",
    "read_files",
    "read_local_files",
    "stream_file",
]

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow", "feather")
COMPRESSIONS = ("gz", "bz2", "xz", "zst")
_FILE = re.compile(rf"\.({'|'.join(FORMATS)})(\.({'|'.join(COMPRESSIONS)}))?$", re.I)
_PATTERN = re.compile(r"[*?\[]")
# A file may take however long, but not without an answer; proxies are those of the environment.
_HTTP = {
    "client_kwargs": {
        "trust_env": True,
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60),
    }
}
_S3 = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}  # s3fs itself tries five times
_NO_TEXT = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook by its first bytes. Unpack it, or save the "
    "sheet as CSV",
    b"PAR1": "Parquet by its first bytes. Name it .parquet",
    b"ARROW1": "Arrow by its first bytes. Name it .arrow",
}
_TYPED = {"parquet": read_parquet, "arrow": read_arrow, "feather": read_arrow}
_OPTIONS: dict[str, dict[str, Any]] = {"http": _HTTP, "https": _HTTP, "s3": _S3}


def file_format(source: str) -> str | None:
    """One of :data:`FORMATS` by the end of the name, or of that before a compression's."""
    match = _FILE.search(source)
    return match[1].lower() if match else None


def is_pattern(source: str) -> bool:
    """Whether a name without a format is a pattern of files; addresses have ``?`` otherwise."""
    return ("*" in source or "?" in source) and not source.startswith(("http", "hf:"))


def read_files(sources: Sequence[str], columns: Iterable[str], encoding: str) -> Table:
    """Read files, and all that patterns name, below each other: in order, each once.

    Args:
        sources: paths or fsspec URLs that have a format, or are patterns. What exists under a name
            is read, whatever is in the name; only where nothing does, ``*``, ``?`` and ``[...]``
            make a pattern, whose files are sorted.
        columns: to read, where they are there.
        encoding: of text files.

    Raises:
        DataError: for a file that is not what its name says, or not like the others.
        OSError: for one that cannot be read.
    """
    copies = _Copies()
    found = _each_once(
        file
        for number, source in enumerate(sources)
        for file in _local_files(source, copies.path / str(number)).items()
    )
    tables = _tables(found, encoding, copies)
    # Also the only one of a pattern, which says little: pictures lie beside it.
    name_files = len(found) > 1 or any(map(_PATTERN.search, sources))
    return read_tables(tables, list(dict.fromkeys(columns)), name_files=name_files)


class _Copies:
    """A folder for copies of files from elsewhere, gone with the last one that knows of it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="autofreeze-data-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _tables(files: Mapping[str, Path], encoding: str, copies: _Copies | None = None) -> Parts:
    """Those of files of one format; they know of the copies that they read."""
    formats = {str(file_format(name)): name for name in files}
    if len(formats) > 1:
        shown = ", ".join(f"{name!r} is {kind}" for kind, name in sorted(formats.items()))
        raise DataError(f"data of several formats ({shown}). Name files of one format.")

    begun = {name: _version(path) for name, path in files.items()}

    def parts(wanted: Sequence[str], _: _Copies | None = copies) -> Iterator[tuple[str, Table]]:
        for name, path in files.items():
            for part in _read(name, path, wanted, encoding, AT_ONCE):
                yield name, part
            if _version(path) != begun[name]:
                raise DataError(
                    f"data {name!r} was changed while it was read, and its columns are read one "
                    "after the other. Start again when it is whole."
                )

    return parts


def _version(path: Path) -> tuple[int, int]:
    """Another one when a file is written or replaced."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _each_once(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Local path of each file by its first name, however many names it is given by."""
    names = dict[Path, str]()
    for name, path in files:
        names.setdefault(path.resolve(), name)
    return {name: path for path, name in names.items()}


def stream_file(source: str, encoding: str, num_rows: int) -> Iterator[Table]:
    """Read all columns of one file, a table of ``num_rows`` at a time: at least one table.

    Args:
        source: path or fsspec URL that has a format.
        encoding: of text files.
        num_rows: of a table at most.

    Raises:
        DataError: for a file that is not what its name says, or a pattern of several files.
        OSError: for one that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="autofreeze-data-") as folder:
        found = _local_files(source, Path(folder))
        if len(found) > 1:
            raise DataError(f"{source!r} names {len(found)} files; give one at a time")
        yield from _read(source, next(iter(found.values())), None, encoding, num_rows)


def read_local_files(paths: Iterable[str], columns: Iterable[str], encoding: str) -> Table:
    """Read files of this machine below each other; each place names its file."""
    tables = _tables(_each_once((path, Path(path)) for path in paths), encoding)
    return read_tables(tables, list(dict.fromkeys(columns)), name_files=True)


def _local_files(source: str, folder: Path) -> dict[str, Path]:
    """Name and local path of each file; those of elsewhere are copied into the folder."""
    if "://" in source:
        try:
            return _opened(*_remote(source), folder)
        except Exception as error:
            failed = DataError(f"cannot read the data {source!r}: {_why_unread(error)}")
            raise temporary_files_full(error) or failed from error
    return _opened(LocalFileSystem(), os.path.expanduser(source), folder)


def _opened(fs: Any, path: str, folder: Path) -> dict[str, Path]:
    fs.invalidate_cache()  # a listing of before is not what is there
    names = [path]
    if _PATTERN.search(path) and not fs.exists(path):
        names = sorted(name for name in fs.glob(path) if file_format(name))
        if not names:
            raise FileNotFoundError(
                "there is no such file, and the pattern matches none that ends in "
                f".{', .'.join(FORMATS)}, perhaps compressed"
            )
    if isinstance(fs, LocalFileSystem):
        if not Path(names[0]).exists():
            raise FileNotFoundError(f"there is no such file (from the folder {Path.cwd()})")
        for name in names:
            if Path(name).is_dir():
                raise DataError(
                    f"data {name!r} is a folder, where files were expected. Name its files by a "
                    f"pattern, as {name.rstrip('/')}/*.{file_format(name) or FORMATS[0]}."
                )
        return {name: Path(name) for name in names}
    folder.mkdir(exist_ok=True)
    copies = {}
    for number, name in enumerate(names):
        copy = copies[fs.unstrip_protocol(name)] = folder / str(number)
        fs.get_file(name, str(copy))
    return copies


def _remote(source: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    found: tuple[Any, str] = fsspec.core.url_to_fs(
        source, **_OPTIONS.get(source.partition("://")[0], {})
    )
    return found


def _why_unread(error: Exception) -> str:
    """What the innermost error means, and what to do."""
    *_, cause = causes(error)
    kind, text = type(cause).__name__, " ".join(str(cause).split())
    if isinstance(error, FileNotFoundError):
        return f"there is no such file or object ({text or kind}). Check its name."
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            "no S3 credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
            "run where a role gives them."
        )
    if isinstance(error, PermissionError) or getattr(cause, "status", None) in (401, 403):
        return f"not allowed ({text or kind}). Check the credentials, and the right to read it."
    return (
        f"{kind}: {text}".rstrip(": ") + ". Check the address, whether its server runs, and "
        "variables of the environment that name a server or a proxy."
    )


def _read(
    source: str, path: Path, columns: Columns, encoding: str, num_rows: int | None = None
) -> Iterator[Table]:
    kind = file_format(source)
    try:
        if kind in _TYPED:
            with _unpacked(path) as stream, _seekable(stream) as seekable:
                yield from _TYPED[kind](source, seekable, columns, num_rows)
            return
        codec = _checked_codec(source, path, encoding)
        newline = None if kind in ("json", "jsonl") else ""  # a quoted text keeps its line ends
        with _unpacked(path) as stream, io.TextIOWrapper(stream, codec, newline=newline) as lines:
            if kind in ("json", "jsonl"):
                yield from read_json(source, lines, columns, num_rows)
            else:
                yield from read_csv(
                    source, lines, "\t" if kind == "tsv" else ",", columns, num_rows
                )
    except (UnicodeError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowInvalid, OSError) as error:
        if isinstance(error, UnicodeError) and kind not in _TYPED:
            raise _not_encoded(source, path, encoding, error) from error
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of what the file holds
        what = " ".join(str(error).split()).rstrip(".")
        raise DataError(
            f"cannot load the data {source!r}: it is damaged, cut off, or not what its name says "
            f"({type(error).__name__}: {what}). Write it again, or get another copy."
        ) from error


def _checked_codec(source: str, path: Path, encoding: str) -> str:
    """Of a text file, which begins like one.

    Raises:
        DataError: for an encoding that there is not, or is not the file's; for what is no text.
    """
    try:
        codec = codecs.lookup(encoding).name
    except LookupError as error:
        raise DataError(
            f"data.encoding: unknown encoding {encoding!r}; utf-8, utf-16, latin-1 and "
            "cp1252 are some"
        ) from error
    with _unpacked(path) as stream:
        head = stream.read(6)
    for magic, what in _NO_TEXT.items():
        if head.startswith(magic):
            raise DataError(f"data {source!r} is no text, but {what}.")
    if head.startswith(codecs.BOM_UTF8):  # some editors put it before UTF-8
        if not codec.startswith("utf-8"):
            raise DataError(
                f"data {source!r} is not {encoding.upper()}, but UTF-8 by its first bytes. Leave "
                "data.encoding out, or give utf-8."
            )
        return "utf-8-sig"
    return codec


def _unpacked(path: Path) -> IO[bytes]:
    """The content, unpacked if it is packed, whatever the name says."""
    with path.open("rb") as file:
        head = file.read(10)
    openers = {
        rb"\x1f\x8b": gzip.open,
        rb"BZh[1-9]1AY&SY": bz2.open,
        rb"\xfd7zXZ\x00": lzma.open,
        rb"\x28\xb5\x2f\xfd": _open_zst,
    }
    matching = (open_it for magic, open_it in openers.items() if re.match(magic, head))
    opener: Any = next(matching, Path.open)
    stream: IO[bytes] = opener(path, "rb")
    return stream


def _open_zst(path: Path, _mode: str) -> Any:
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")


@contextlib.contextmanager
def _seekable(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    if isinstance(stream, io.BufferedReader):
        yield stream
        return
    with tempfile.TemporaryFile(prefix="autofreeze-data-") as unpacked:
        shutil.copyfileobj(stream, unpacked)
        unpacked.seek(0)
        yield unpacked


def _not_encoded(source: str, path: Path, encoding: str, error: UnicodeError) -> DataError:
    """Of the first line that is not in the encoding: read again, as the text was read in pieces."""
    with _unpacked(path) as stream:
        head = stream.read(2)
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return DataError(
            f"data {source!r} is not {encoding.upper()}, but UTF-16 by its first bytes. Save it as "
            "UTF-8 or give data.encoding: utf-16"
        )
    place = ""
    # Each byte is a character of latin-1, and not every stream can give lines.
    with _unpacked(path) as stream, io.TextIOWrapper(stream, "latin-1", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.encode("latin-1").decode(encoding)
            except UnicodeDecodeError as bad:
                place = f": line {number} has the byte 0x{bad.object[bad.start]:02x}"
                break
    return DataError(
        f"data {source!r} is not {encoding.upper()}{place or f' ({error})'}. Save it as UTF-8 or "
        "give data.encoding, e.g. latin-1 or cp1252"
    )
