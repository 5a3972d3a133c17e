"""Text -> tokens, once per (data, task, tokenizer, length), with stable example ids."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.data.fold import Fold
from afcore.data.held_rows import HeldRows
from afcore.data.named_sources import Names
from afcore.data.sources import Field, Rows, load_rows
from afcore.data.split import fold_numbers, held_out
from afcore.data.stored_values import AT_ONCE
from afcore.data.tokenizer_checks import check_known, tokenizer_digest
from afcore.digest import (
    ContentDigest,
    RecipeDigest,
    canonical_json,
    content_digest,
    recipe_digest,
)
from afcore.errors import ConfigError, DataError
from afcore.numerics import numerics_of
from afcore.storage.objects import Storage
from afcore.tasks.hub_revisions import pin_revisions
from afcore.tasks.known_tasks import task_class
from afcore.tasks.stored_tokens import (
    PreparedData,
    Tokenizing,
    open_prepared,
    open_sound,
    store_fold,
    store_tokens,
)
from afcore.tasks.task import Task

__all__ = ["DataSources", "load_splits", "prepare"]

_ROOMS = {"tokenizer": ["data"], "image_processor": ["data", "pictures"]}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSources:
    """Where the splits come from; the keys of ``data`` in the configuration.

    Attributes:
        train: source of the training set, or its rows in memory.
        validation: the same, or the share of the training set that is held out.
        test: the same, or none.
        columns: names of columns by the keys of the task's fields.
        group: column of what is held out together.
        fold: of the training set, which validates instead of ``validation``.
        limit: rows of the training set at most.
        test_limit: rows of the test set at most.
        encoding: of CSV and JSON files.
        settings: of the task, as the user gave them.
    """

    train: Names | HeldRows
    validation: Names | HeldRows | float
    test: Names | HeldRows | None
    columns: dict[str, str | None]
    group: str | None = None
    fold: Fold | None = None
    limit: int | None = None
    test_limit: int | None = None
    encoding: str = "utf-8"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Any]:
        """What is given of each split, by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def with_names(self, names: dict[str, Any]) -> "DataSources":
        """The same with other sources of some splits."""
        return replace(self, **names)


def prepare(
    storage: Storage, processor: Any, task_name: str, sources: DataSources, max_length: int
) -> PreparedData:
    """Load, split and tokenize; what was prepared before from the same rows is opened.

    The name covers each split's rows, so whatever decides the split needs no part in it.

    Args:
        storage: where.
        processor: of the model: its tokenizer.
        task_name: of :mod:`afcore.tasks.known_tasks`.
        sources: of the splits.
        max_length: tokens of an example at most.

    Raises:
        DataError: for data that cannot be read, too little to hold out validation, words that are
            all unknown, and what the task refuses.
    """
    kind = task_class(task_name)
    splits, revisions = load_splits(storage, task_name, sources)
    everything, held = splits["train"], None
    _warn_of_trained(splits)
    if sources.fold is not None:
        held = _fold_rows(kind, everything, sources.fold)
    elif isinstance(sources.validation, float):
        splits["train"], splits["validation"] = _hold_out(everything, sources.validation)
    task = kind.learn(splits, everything, processor).padded_by(processor)
    task = task.with_settings(sources.settings)
    digest = recipe_digest(
        {
            "schema": 4,
            "numerics": numerics_of(*_ROOMS[kind.processor]),
            "task": task.model_dump(),
            "rows": {name: _rows_digest(rows) for name, rows in splits.items()},
            "processor": _processor_digest(kind, processor, splits["train"], max_length),
            "max_length": max_length,
        }
    )
    name = digest if sources.fold is None else _fold_digest(digest, sources.fold)
    data = open_sound(storage, name)
    if data is None:
        tokens = Tokenizing(task, processor, max_length)
        if held is None:
            store_tokens(storage, digest, splits, tokens)
        else:
            store_fold(storage, digest, splits, tokens, name, held)
        data = open_prepared(storage, name)
    if kind.processor == "tokenizer":
        check_known(processor, data.train, everything.source)
    sizes = {name: examples.num_rows for name, examples in data.splits.items()}
    sequences = f" in {len(data.train)} sequences" if len(data.train) != sizes["train"] else ""
    sizes["train"] = data.num_train_rows
    is_text = data.train.fixed_length is None
    _log.info(
        "data: %d examples%s to train on, %d to validate, %d to test, %s%s",
        *(sizes["train"], sequences, sizes["validation"], sizes.get("test", 0)),
        *(task.described()[0], f", {data.train.lengths.mean():.1f} tokens each" * is_text),
    )
    return replace(data, revisions=revisions)


def load_splits(
    storage: Storage, task_name: str, sources: DataSources
) -> tuple[dict[str, Rows], Mapping[str, str]]:
    """Rows of the splits that are given; what is held out of the training set is still in it.

    Returns:
        The rows by split, and the commits of the hub data sets that they were read from.

    Raises:
        ConfigError: for a column that is named, and that the task does not read.
        DataError: for data that cannot be read.
    """
    kind = task_class(task_name)
    fields, encoding = kind.fields(kind.named_columns(sources.columns)), sources.encoding
    _refuse_unread(task_name, fields, sources.columns)
    names, revisions = pin_revisions(storage, sources.splits)
    sources = sources.with_names(names)
    splits = {
        "train": load_rows(
            sources.train,
            "train",
            fields,
            limit=sources.limit,
            group=sources.group,
            encoding=encoding,
        )
    }
    if sources.fold is None and not isinstance(sources.validation, float):
        splits["validation"] = load_rows(
            sources.validation, "validation", fields, encoding=encoding
        )
    if sources.test is not None:
        splits["test"] = load_rows(
            sources.test, "test", fields, limit=sources.test_limit, encoding=encoding
        )
    return splits, revisions


def _refuse_unread(
    task_name: str, fields: Sequence[Field], columns: Mapping[str, str | None]
) -> None:
    """Refuse a name that is given to a column of which nothing would be read."""
    read = list(dict.fromkeys(one.key.partition(".")[0] for one in fields))
    for key, name in columns.items():
        if name is not None and key not in read:
            raise ConfigError(
                f"data.{key}: task {task_name} reads no such column, but those of "
                f"{', '.join(f'data.{one}' for one in read)}. Leave {name!r} out, or set task to "
                "the one that is meant"
            )


def _fold_digest(whole: RecipeDigest, fold: Fold) -> RecipeDigest:
    return recipe_digest({"schema": 1, "whole": whole, "fold": [fold.number, fold.of]})


def _fold_rows(kind: type[Task], rows: Rows, fold: Fold) -> npt.NDArray[np.bool_]:
    """[n], whether a row validates: by group, else by text.

    Raises:
        DataError: where some fold is empty.
        ConfigError: for a task whose folds have no example in common.
    """
    if kind.training_examples is not Task.training_examples:
        raise ConfigError(
            f"data.fold: {kind.__name__} trains on other pieces of a row than it is scored on, so "
            "one set cannot serve all folds. Use data.validation"
        )
    keys = rows.identities if rows.groups is None else rows.groups
    numbers = fold_numbers(keys, fold.of)
    empty = np.setdiff1d(np.arange(1, fold.of + 1), numbers)
    if len(empty):
        what = "texts" if rows.groups is None else "groups"
        raise DataError(
            f"data {rows.source!r}: fold {empty[0]} of {fold.of} has no row, as {len(set(keys))} "
            f"different {what} are few. Ask for fewer folds, or give more rows."
        )
    held: npt.NDArray[np.bool_] = numbers == fold.number
    _warn_of_both(rows, held)
    return held


def _hold_out(rows: Rows, fraction: float) -> tuple[Rows, Rows]:
    """(rows to train on, rows to validate on), at least one each: by group, else by text."""
    keys: Collection[str] = rows.identities if rows.groups is None else rows.groups
    what = "text" if rows.groups is None else "group"
    first = next(iter(keys))
    if all(key == first for key in keys):
        raise DataError(
            f"data {rows.source!r}: {len(keys)} rows with 1 different {what} are "
            f"too few to hold out validation, as rows of one {what} stay together. Give other data "
            "with data.validation."
        )
    held = held_out(keys, fraction)
    _warn_of_both(rows, held)
    return rows.pick(np.flatnonzero(~held)), rows.pick(np.flatnonzero(held))


def _warn_of_both(rows: Rows, held: npt.NDArray[np.bool_]) -> None:
    """Of texts on either side, which by groups there may be."""
    if rows.groups is None:  # equal texts are on one side
        return
    there = set(compress(rows.identities, held))
    trained = compress(rows.identities, ~held)
    if num_twice := len({text for text in trained if text in there}):
        _log.warning(
            "data %r: %d texts are both trained and validated on, as they stand in groups of "
            "either side; validation is too good by as much. Remove the copies.",
            rows.source,
            num_twice,
        )


def _warn_of_trained(splits: Mapping[str, Rows]) -> None:
    """Of rows of other sources that are among the training rows, by what the model gets."""
    others = {split: rows for split, rows in splits.items() if split != "train"}
    # Hashes, as texts may take much memory; the training rows are gone through once for all.
    there = {hash(text) for rows in others.values() for text in rows.identities}
    if there:
        there = there.intersection(map(hash, splits["train"].identities))
    for split, rows in others.items():
        if num_rows := sum(hash(text) in there for text in rows.identities):
            _log.warning(
                "data %r: %d of %d rows of data.%s stand in data.train as well, by their inputs; "
                "what is scored on them is too good by as much. Remove them from one of the two.",
                rows.source,
                num_rows,
                len(rows),
                split,
            )


def _processor_digest(
    kind: type[Task], processor: Any, rows: Rows, max_length: int
) -> ContentDigest:
    if kind.processor == "tokenizer":
        return tokenizer_digest(processor, next(iter(rows.inputs.values())), max_length)
    return content_digest(canonical_json(json.loads(processor.to_json_string())))


def _rows_digest(rows: Rows) -> ContentDigest:
    """Of ``[inputs, targets]`` as JSON, which is never there as a whole."""
    content = hashlib.sha256()
    for before, columns in (("[", rows.inputs), (", ", rows.targets)):
        content.update(f"{before}{{".encode())
        for number, (key, values) in enumerate(columns.items()):
            content.update(f"{', ' if number else ''}{json.dumps(key)}: [".encode())
            for start in range(0, len(values), AT_ONCE):
                part = json.dumps(values[start : start + AT_ONCE], default=str)[1:-1]
                content.update(f"{', ' if start else ''}{part}".encode())
            content.update(b"]")
        content.update(b"}")
    content.update(b"]")
    return ContentDigest(content.hexdigest())
