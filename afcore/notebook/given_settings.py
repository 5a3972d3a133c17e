"""What a call gives as a configuration: keys by their last name, dotted, or as nested dicts."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afcore.config import Config, change_keys, parse_config
from afcore.data.held_rows import HeldRows, hold_rows
from afcore.errors import ConfigError
from afcore.yaml_files import key_paths, read_mapping

__all__ = ["resolve_settings"]

_NAMES = (str, Path, int, float, Mapping, type(None))
"""What may stand where a model's name does; of numbers the configuration says what is wrong."""
_SPLITS = ("train", "validation", "test")
_PATHS = {key_path for key_path in map(".".join, key_paths(Config))}
# Sections of other commands have keys of the same last part, as a seed.
_SHORT_PATHS = {path for path in _PATHS if path.partition(".")[0] not in ("search", "retrain")}
_OPTIONAL = {name for name, field in Config.model_fields.items() if field.default is None}
"""Sections that say something by being there, even without a key."""


def resolve_settings(
    base: Config | Mapping[str, Any] | str | Path | None, given: Mapping[str, Any], source: str
) -> tuple[Config, dict[str, HeldRows]]:
    """The configuration, and the rows that are held in memory, by their splits.

    Args:
        base: a configuration, a dict or the path of a YAML file; None: all defaults.
        given: what is changed: values by key (``training.epochs``), by its last part where no other
            key has that (``epochs``), or sections as dicts.
        source: in messages.

    Raises:
        ConfigError: for an unknown key or a value that is not allowed, in one message.
        DataError: for rows of a kind that is not known.
    """
    tree: dict[str, Any] = {}
    parts = [given]
    if isinstance(base, Config):
        tree = base.model_dump()
    elif isinstance(base, str | Path):
        tree = read_mapping(Path(base), "the configuration", "Give the path of a YAML file.")
    elif base is not None:
        parts = [base, given]  # one after the other: what is given changes keys, not whole sections
    held: dict[str, HeldRows] = {}
    for part in parts:
        change_keys(tree, _changes(part, held, source), source)
    return parse_config(tree, source), held


def _changes(given: Mapping[str, Any], held: dict[str, HeldRows], source: str) -> dict[str, Any]:
    """Plain values by their whole keys; rows in memory go to ``held``, by their splits."""
    changes: dict[str, Any] = {}
    for name, value in given.items():
        changes |= _by_path(_path(name, source), value)
    for split in _SPLITS:
        if f"data.{split}" in changes:
            held.pop(split, None)
        rows = changes.get(f"data.{split}")
        if not isinstance(rows, str | Path | int | float | None) and not _are_files(rows):
            held[split] = hold_rows(split, rows)
            changes[f"data.{split}"] = f"memory:{split}"
    for path in ("model", "model.name"):
        if not isinstance(given_name := changes.get(path), _NAMES):
            raise ConfigError(
                f"{source}: {path} is a {type(given_name).__name__} in memory, and a model is "
                "opened by its name. Save it (save_pretrained, and its tokenizer's), and give the "
                "folder, or give a hub id"
            )
    return {path: _plain(value) for path, value in changes.items()}


def _are_files(rows: Any) -> bool:
    return (
        isinstance(rows, list | tuple)
        and bool(rows)
        and all(isinstance(one, str | Path) for one in rows)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _path(name: str, source: str) -> str:
    """The whole key; an unknown one that has dots is refused with the others."""
    if "." in name or name in _PATHS:
        return name
    found = sorted(path for path in _SHORT_PATHS if path.rpartition(".")[2] == name)
    if len(found) == 1:
        return found[0]
    if found:
        whole = f"**{{{found[0]!r}: ...}}"
        raise ConfigError(
            f"{source}: {name!r} may be {' or '.join(found)}. Give the whole key: {whole}"
        )
    names = {path.rpartition(".")[2]: path for path in sorted(_SHORT_PATHS)}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    said = f"did you mean {near[0]!r} ({names[near[0]]})?" if near else "see docs/configuration.md"
    raise ConfigError(f"{source}: unknown key {name!r}; {said}")


def _by_path(path: str, value: Any) -> dict[str, Any]:
    """A section that is given as a dict, key by key; rows in memory may be a dict of columns."""
    if path in ("model", "data", "freezing") and isinstance(value, str | Path):
        path = {"model": "model.name", "data": "data.train", "freezing": "freezing.policy"}[path]
    is_split = path.removeprefix("data.") in _SPLITS
    if is_split or not isinstance(value, Mapping) or (not value and path in _OPTIONAL):
        return {path: value}
    if any("." in str(name) for name in value):  # no section: names are keys, as in search.vary
        return {path: dict(value)}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= _by_path(f"{path}.{name}", inner)
    return flat
