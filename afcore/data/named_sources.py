"""What a name in ``data`` stands for: files, a folder, a data set of the hub, or a built-in one.

A file or a folder that exists under exactly the name is meant; only where there is none, the name
has parts or is a pattern.
"""

import glob
import logging
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
from datasets.data_files import EmptyDatasetError, resolve_pattern
from datasets.exceptions import DataFilesNotFoundError

from afcore.data.builtin.names import BUILT_IN
from afcore.data.files import (
    COMPRESSIONS,
    FORMATS,
    file_format,
    is_pattern,
    read_files,
    read_local_files,
)
from afcore.data.held_rows import HeldRows, dataset_table
from afcore.data.hub import HubName, load_hub_dataset
from afcore.data.table import Table
from afcore.disk_space import disk_space, fullest, is_full
from afcore.errors import DataError, StorageFullError, causes, some_of

__all__ = ["Names", "hub_name", "innermost_reason", "load_failure", "load_table", "shown_name"]

Names = str | Sequence[str]
"""One name, or those of several files."""

# What ``datasets`` says, and what is to be done.
_TODO = {
    "Unknown split": "Name one that is there, as NAME:SPLIT.",
    "Config name is missing": "Name one of them, as NAME[CONFIGURATION].",
    "configurations in the cache": "Name one of them, as NAME[CONFIGURATION].",
    "BuilderConfig": "Name one that is there, as NAME[CONFIGURATION].",
    "same data file format for all splits": "Give them one format, or name the files of each split "
    "with data.train, data.validation and data.test.",
}
_ALSO_ROWS = (".ndjson", ".zip")  # of a folder, what is no format and may have rows
_SPLIT_NAME = re.compile(
    r"(?<![a-z])(train|training|dev|val|validation|test|testing|eval)(?![a-z])"
)
_log = logging.getLogger(__name__)


def load_table(names: Names, split: str, columns: list[str], encoding: str) -> Table:
    """The columns of a source that are wanted and there.

    Args:
        names: of the source.
        split: to take where the name has none.
        columns: that are wanted.
        encoding: of CSV and JSON files.

    Raises:
        DataError: for what cannot be read, saying why.
        StorageFullError: when there is no space left for a copy, or for what is made of it.
    """
    try:
        if not isinstance(names, str):
            return read_files(_checked_files(names), columns, encoding)
        return _load(names, split, columns, encoding)
    except Exception as error:
        raise load_failure(shown_name(names), error) from error


def hub_name(source: str) -> HubName | None:
    """The parts of a name that is a hub data set's; None for any other source."""
    if _is_files(source) or _is_unknown_file(source) or _folder(source) is not None:
        return None
    name = HubName.parse(source)
    return None if name.name in BUILT_IN else name


def load_failure(name: str, error: Exception) -> DataError | StorageFullError:
    """What to say of a source that could not be loaded."""
    if isinstance(error, DataError | StorageFullError):
        return error
    if is_full(error):
        place = fullest(tempfile.gettempdir(), datasets.config.HF_DATASETS_CACHE)
        return StorageFullError(
            f"cannot load the data {name!r}: no space left: {disk_space(place)}. Free some, or "
            "point TMPDIR elsewhere, and HF_HOME for data sets of the hub."
        )
    reason = innermost_reason(error).rstrip(".")
    return DataError(f"cannot load the data {name!r}: {reason}. {_todo(reason, error)}")


def _todo(reason: str, error: Exception) -> str:
    for said, todo in _TODO.items():
        if said in reason:
            return todo
    if type(error) is FileNotFoundError:  # ``datasets`` has its own of names on the hub
        return "Check its name."
    if isinstance(error, OSError) and error.errno is not None:
        return "Check the disk, and the right to read it."
    return (
        f"Give files that end in .{', .'.join(FORMATS)}, a folder of such, a hub data set as "
        "NAME[CONFIGURATION]@REVISION:SPLIT, of which only the name is needed, or one that is "
        f"built in ({', '.join(BUILT_IN)})."
    )


def shown_name(names: Names) -> str:
    """A source in messages."""
    if isinstance(names, str):
        return names
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def innermost_reason(error: BaseException) -> str:
    """The innermost cause, on one line: the outer ones only say that something went wrong."""
    *_, error = causes(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def _load(source: str, split: str, columns: list[str], encoding: str) -> Table:
    if _is_files(source):
        return read_files([source], columns, encoding)
    if _is_unknown_file(source):
        raise _unknown_format(source)
    folder = _folder(source)
    if folder is not None:
        return _folder_table(replace(folder, split=folder.split or split), columns, encoding)
    name = HubName.parse(source)
    if name.name in BUILT_IN:
        return HeldRows(source, BUILT_IN[name.name](name.split or split)).table(columns)
    return dataset_table(source, load_hub_dataset(name, split), columns)


def _is_files(source: str) -> bool:
    if file_format(source):
        return not Path(source).is_dir()  # as others write a folder of parts: ``out.parquet/``
    return is_pattern(source) and not Path(source).exists()


def _is_unknown_file(source: str) -> bool:
    """A file, or a place elsewhere, whose name does not tell the format."""
    if "://" in source:
        return not source.startswith("hf://")
    return Path(source).is_file()


def _unknown_format(source: str) -> DataError:
    return DataError(
        f"cannot tell the format of the data {source!r}: its name must end in "
        f".{', .'.join(FORMATS)}, perhaps compressed (.{', .'.join(COMPRESSIONS)}). The files of a "
        "folder elsewhere are named by a pattern, e.g. s3://bucket/folder/*.parquet."
    )


def _checked_files(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if not _is_files(name):
            raise DataError(
                f"data: {name!r} is one of several, and no file by its name. A list has files and "
                f"patterns that end in .{', .'.join(FORMATS)}."
            )
    return names


def _folder(source: str) -> HubName | None:
    """A folder of this machine, with its parts; None where there is none of this name."""
    if "://" in source:
        return None
    if _is_dir(source):
        return HubName(source)
    path, _, split = source.rpartition(":")
    if _is_dir(path):
        return HubName(path, split=split)
    name = HubName.parse(source)
    return name if name.revision is None and _is_dir(name.name) else None


def _is_dir(path: str) -> bool:
    return path != "" and Path(path).is_dir()


def _folder_table(folder: HubName, columns: list[str], encoding: str) -> Table:
    """A folder as it is now. ``datasets`` says which of its files are the split's.

    It also reads them where a README tells the types, or where they have other formats.

    Raises:
        DataError: where files of rows would be left out; a README may say which ones are read.
    """
    path, split = folder.name, str(folder.split)
    if (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists():
        return dataset_table(str(folder), _saved_dataset(path, split), columns)
    whole = str(Path(path).resolve())
    if glob.has_magic(whole):
        raise DataError(
            f"data {path!r}: a folder with '[', '*' or '?' in its path, {whole!r}, would be "
            "taken for a pattern. Rename it."
        )
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="autofreeze-data-") as copy:
        try:
            builder = datasets.load_dataset_builder(path, folder.config, cache_dir=copy)
        except (EmptyDatasetError, DataFilesNotFoundError) as error:
            raise _nothing_read(path) from error
        _refuse_left_out(path, builder)
        files = (builder.config.data_files or {}).get(split, [])
        if files and builder.info.features is None and all(file_format(file) for file in files):
            return read_local_files(files, columns, encoding)
        # Its files are mapped, and there until nobody reads them, whatever becomes of their names.
        read = datasets.load_dataset(path, folder.config, split=split, cache_dir=copy)
        return dataset_table(path, read, columns)


def _refuse_left_out(path: str, builder: Any) -> None:
    """Of pictures and texts, files of rows are no part, and only there an archive is read."""
    if builder.name not in FORMATS:
        return
    read = {file for files in (builder.config.data_files or {}).values() for file in files}
    left_out = [file for file in _files_of_rows(path) if file not in read or file.endswith(".zip")]
    if not left_out:
        return
    module = datasets.load.dataset_module_factory(path)
    if module.builder_configs_parameters.metadata_configs:  # the README names the files
        return
    if _are_beside(path, read, left_out):
        _log.warning("data %r: left out: %s", path, some_of(_within(path, left_out)))
        return
    raise _left_out(path, left_out)


def _are_beside(path: str, read: Iterable[str], left_out: Sequence[str]) -> bool:
    """Whether other files are there beside the rows: splits are named, or these are notes."""
    if any(file.lower().endswith(".zip") for file in left_out):
        return False
    are_notes = all(file.endswith(".json") for file in left_out)
    return are_notes or any(_SPLIT_NAME.search(name) for name in _within(path, read))


def _within(path: str, files: Iterable[str]) -> list[str]:
    return [Path(file).relative_to(Path(path).resolve()).as_posix() for file in files]


def _nothing_read(path: str) -> DataError:
    left_out = _files_of_rows(path)
    if left_out:
        return _left_out(path, left_out)
    return DataError(
        f"cannot load the data {path!r}: the folder has no file of rows. Name one with files that "
        f"end in .{', .'.join(FORMATS)}."
    )


def _left_out(path: str, files: Sequence[str]) -> DataError:
    names = _within(path, files)
    suffix = Path(names[0]).suffix
    if suffix == ".zip":
        why = "a .zip is read where it holds pictures. Unpack it"
    elif suffix != suffix.lower():
        why = "in a folder, endings are in small letters. Rename it"
    else:
        why = "a folder's files have one format that `datasets` knows. Give them one format"
    more = f" and {len(names) - 3} more" * (len(names) > 3)
    return DataError(
        f"data {path!r}: {', '.join(names[:3])}{more} would be left out, as {why}, name the files "
        "to read in a list or by a pattern, or take out of the folder what is no data."
    )


def _files_of_rows(path: str) -> list[str]:
    """All that may have rows, but those that ``datasets`` takes for something else by name."""
    try:
        files = resolve_pattern("**", str(Path(path).resolve()))
    except FileNotFoundError:
        return []
    return sorted(f for f in files if file_format(f) or f.lower().endswith(_ALSO_ROWS))


def _saved_dataset(path: str, split: str) -> Any:
    """What ``save_to_disk`` wrote: a data set, or one for each split."""
    dataset = datasets.load_from_disk(path)
    if not isinstance(dataset, datasets.DatasetDict):
        return dataset
    if split not in dataset:
        raise DataError(f"data {path!r} has no split {split!r}, only {', '.join(dataset)}.")
    return dataset[split]
