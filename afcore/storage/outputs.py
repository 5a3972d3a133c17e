"""What users ask for under a name of their own: written beside it, then put in place whole.

Until then there is nothing under the name, or what was there before.
"""

import contextlib
import fnmatch
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from afcore.disk_space import disk_space, is_full
from afcore.errors import AutoFreezeError, ConfigError, StorageFullError
from afcore.model_settings import MODEL_MARK

__all__ = ["check_file", "check_folder", "new_file", "new_folder"]

_OF_MODELS = (
    *("README.md", "config.json", "generation_config.json", "model*.safetensors"),
    *("model.safetensors.index.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
"""What some model or tokenizer is saved as, each kind as others of these."""
_ADAPTER = "adapter"
_OF_ADAPTERS = ("README.md", "adapter_config.json", "adapter_model.safetensors")


def check_file(output: str, option: str = "--output") -> Path:
    """The file's path, if it can be written; asked before any work.

    Args:
        output: as the user gave it.
        option: by which.

    Raises:
        ConfigError: when it cannot.
    """
    path = _local(output, option)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{option} {output}: is no file. Give the name of one")
    with _explained(output, option):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _beside(path)
        draft.touch()
        draft.unlink()
    return path


def check_folder(output: str) -> Path:
    """The folder's path, if it can be written and holds nothing but a model that we wrote.

    Raises:
        ConfigError: when it cannot, or holds anything else.
    """
    path = _local(output)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--output {output}: is no folder. Give the name of one")
    with _explained(output):
        if path.is_mount():
            raise ConfigError(f"--output {output}: is a mount point. Give a folder in it")
        if path.is_dir() and any(path.iterdir()) and not _is_ours(path):
            raise ConfigError(
                f"--output {output}: holds files that are not of a model that was written so. "
                "Give a new or an empty folder"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _beside(path)
        draft.mkdir()
        draft.rmdir()
    return path


@contextlib.contextmanager
def new_file(path: Path, option: str = "--output") -> Iterator[Path]:
    """Where to write what becomes the file, in place of an earlier one, if all goes well.

    As in :func:`check_file`, links are followed, and ``~`` is the user's home.

    Raises:
        ConfigError: when it cannot be written.
        StorageFullError: when it does not fit.
    """
    path = _local(str(path), option)
    draft = _beside(path)
    try:
        with _explained(path, option):
            yield draft
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder that becomes the one of this name, in place of an earlier one of ours.

    Raises:
        ConfigError: when it cannot be written, or the earlier one has files that this one has not.
        StorageFullError: when it does not fit.
    """
    draft, before = _beside(path), _beside(path)
    try:
        with _explained(path):
            draft.mkdir()
            yield draft
            _refuse_others(path, draft)
            if path.is_dir() and any(path.iterdir()):
                path.rename(before)
            draft.rename(path)
    finally:
        if before.is_dir() and not path.exists():  # interrupted between the two
            before.rename(path)
        for folder in (draft, before):
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_others(path: Path, draft: Path) -> None:
    """What would be lost with an earlier folder that was not only written by us."""
    known = {entry.name for entry in draft.iterdir()}
    entries = [e for e in path.iterdir() if e.name not in known] if path.is_dir() else []
    others = sorted(entry.name for entry in entries if not _is_of_model(entry))
    if others:
        raise ConfigError(
            f"--output {path}: would delete {', '.join(others[:3])}. Move it away, or give another "
            "folder: the run is finished, so the same command writes its model without training"
        )


def _is_of_model(entry: Path) -> bool:
    """Whether another kind of model would have left it there."""
    if entry.is_dir():
        return entry.name == _ADAPTER and all(one.name in _OF_ADAPTERS for one in entry.iterdir())
    return any(fnmatch.fnmatchcase(entry.name, name) for name in _OF_MODELS)


def _is_ours(folder: Path) -> bool:
    try:
        return MODEL_MARK in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _local(output: str, option: str = "--output") -> Path:
    """Links are followed: what they point at is written, not they."""
    if "://" in output:
        raise ConfigError(f"{option} {output}: is not a path of this machine. Write here and copy")
    return Path(os.path.realpath(Path(output).expanduser()))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.draft")


@contextlib.contextmanager
def _explained(output: object, option: str = "--output") -> Iterator[None]:
    try:
        yield
    except AutoFreezeError:
        raise
    except Exception as error:
        if is_full(error):  # a library of Transformers' says so in words of its own
            raise StorageFullError(
                f"{option} {output}: no space left: {disk_space(str(output))}. Free some, or give "
                "another place; what is committed stands, so the same command trains nothing anew."
            ) from error
        if not isinstance(error, OSError):
            raise
        raise ConfigError(f"{option} {output}: cannot be written: {error.strerror}") from error
