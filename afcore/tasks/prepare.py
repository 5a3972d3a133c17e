"""Text -> tokens, once per (data, task, tokenizer, length), with stable example ids."""

import contextlib
import hashlib
import json
import logging
import mmap
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from afcore.data.examples import Examples
from afcore.data.held_rows import HeldRows
from afcore.data.named_sources import Names
from afcore.data.row_digests import digest_of_rows, row_digests
from afcore.data.sources import Rows, load_rows
from afcore.data.split import held_out
from afcore.data.stored_values import AT_ONCE
from afcore.data.tokenizer_checks import check_known, tokenizer_digest
from afcore.digest import (
    ContentDigest,
    RecipeDigest,
    canonical_json,
    content_digest,
    recipe_digest,
)
from afcore.disk_space import temporary_files_full
from afcore.errors import DataError, IntegrityError
from afcore.numerics import numerics_of
from afcore.storage.objects import Storage
from afcore.tasks.hub_revisions import pin_revisions
from afcore.tasks.known_tasks import parse_task, task_class
from afcore.tasks.task import Task

__all__ = ["DataSources", "PreparedData", "load_splits", "open_prepared", "prepare"]

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


@dataclass(frozen=True)
class PreparedData:
    """All splits; ``digest`` is the recipe's and names the folder in the store.

    ``revisions`` are the commits of the hub data sets that the rows were just read from, by name;
    ``row_digests`` name each split's rows, in any order.
    """

    digest: RecipeDigest
    task: Task
    train: Examples
    validation: Examples
    test: Examples | None
    revisions: Mapping[str, str] = field(default_factory=dict)
    row_digests: Mapping[str, ContentDigest] = field(default_factory=dict)

    def of_length(self, num_states: int | None) -> "PreparedData":
        """The same; examples that are no sequences have so many hidden states."""
        if num_states is None:
            return self
        train, validation = (
            replace(part, fixed_length=num_states) for part in (self.train, self.validation)
        )
        test = None if self.test is None else replace(self.test, fixed_length=num_states)
        return replace(self, train=train, validation=validation, test=test)

    @property
    def splits(self) -> dict[str, Examples]:
        """By name."""
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: examples for name, examples in given.items() if examples is not None}


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
    everything = splits["train"]
    if isinstance(sources.validation, float):
        splits["train"], splits["validation"] = _hold_out(everything, sources.validation)
    task = kind.learn(splits, everything, processor).with_settings(sources.settings)
    digest = recipe_digest(
        {
            "schema": 4,
            "numerics": numerics_of("data"),
            "task": task.model_dump(),
            "rows": {name: _rows_digest(rows) for name, rows in splits.items()},
            "processor": _processor_digest(kind, processor, splits["train"], max_length),
            "max_length": max_length,
        }
    )
    data = _open_sound(storage, digest)
    if data is None:
        manifest: dict[str, Any] = {"task": task.model_dump(), "splits": {}, "rows": {}}
        for name, rows in splits.items():
            make = task.training_examples if name == "train" else task.examples
            with _mapped_pieces(make(processor, rows, max_length)) as content:
                storage.put(_key(digest, f"{name}.safetensors"), content)
                manifest["splits"][name] = content_digest(content)
            manifest["rows"][name] = digest_of_rows(row_digests(rows))
        manifest["digest"] = recipe_digest(manifest)
        storage.put(_key(digest, "manifest.json"), json.dumps(manifest).encode())
        data = open_prepared(storage, digest)
    if kind.processor == "tokenizer":
        check_known(processor, data.train, everything.source)
    sizes = {name: examples.num_rows for name, examples in data.splits.items()}
    sequences = f" in {len(data.train)} sequences" if len(data.train) != sizes["train"] else ""
    _log.info(
        "data: %d examples%s to train on, %d to validate, %d to test, %s, %.1f tokens each",
        *(sizes["train"], sequences, sizes["validation"], sizes.get("test", 0)),
        *(task.described()[0], data.train.lengths.mean()),
    )
    return replace(data, revisions=revisions)


def load_splits(
    storage: Storage, task_name: str, sources: DataSources
) -> tuple[dict[str, Rows], Mapping[str, str]]:
    """Rows of the splits that are given; what is held out of the training set is still in it.

    Returns:
        The rows by split, and the commits of the hub data sets that they were read from.

    Raises:
        DataError: for data that cannot be read.
    """
    names, revisions = pin_revisions(storage, sources.splits)
    sources = sources.with_names(names)
    kind = task_class(task_name)
    fields, encoding = kind.fields(kind.named_columns(sources.columns)), sources.encoding
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
    if not isinstance(sources.validation, float):
        splits["validation"] = load_rows(
            sources.validation, "validation", fields, encoding=encoding
        )
    if sources.test is not None:
        splits["test"] = load_rows(
            sources.test, "test", fields, limit=sources.test_limit, encoding=encoding
        )
    return splits, revisions


def open_prepared(storage: Storage, digest: RecipeDigest) -> PreparedData:
    """Open what :func:`prepare` stored.

    Raises:
        IntegrityError: when something of it is missing or damaged.
    """
    key = _key(digest, "manifest.json")
    try:
        content = storage.get(key)
    except KeyError as error:
        raise _unusable(storage, key, "is missing") from error
    try:
        manifest = json.loads(content)
        if manifest.pop("digest", None) not in (None, recipe_digest(manifest)):
            raise ValueError("other bytes than were written")
        contents, task = dict(manifest["splits"]), parse_task(manifest["task"])
        train, validation = contents["train"], contents["validation"]
        rows = dict(manifest.get("rows", contents))  # of a release before: digests of the tokens
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(storage, key, "is damaged") from error
    return PreparedData(
        digest,
        task,
        _read(storage, digest, "train", train),
        _read(storage, digest, "validation", validation),
        _read(storage, digest, "test", contents["test"]) if "test" in contents else None,
        row_digests=rows,
    )


def _read(storage: Storage, digest: RecipeDigest, name: str, expected: ContentDigest) -> Examples:
    key = _key(digest, f"{name}.safetensors")
    try:
        content = storage.mapped(key)
    except KeyError as error:
        raise _unusable(storage, key, "is missing") from error
    if content_digest(content) != expected:
        raise _unusable(storage, key, "is damaged")
    return Examples.decode(content)


def _unusable(storage: Storage, key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"prepared data {storage.uri(key)} {why}. Start the same command again: it makes them "
        "anew from the rows."
    )


def _open_sound(storage: Storage, digest: RecipeDigest) -> PreparedData | None:
    """What is stored, or None when there is nothing, or something of it is damaged."""
    if not storage.exists(_key(digest, "manifest.json")):
        return None
    try:
        return open_prepared(storage, digest)
    except IntegrityError as error:
        _log.warning("%s Making them anew now.", error)
        return None


def _key(digest: RecipeDigest, name: str) -> str:
    return f"data/{digest[:32]}/{name}"


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
    train, validation = rows.pick(np.flatnonzero(~held)), rows.pick(np.flatnonzero(held))
    if rows.groups is None:  # equal texts are on one side
        return train, validation
    there = set(validation.identities)
    if num_twice := len({text for text in train.identities if text in there}):
        _log.warning(
            "data %r: %d texts are both trained and validated on, as they stand in groups of "
            "either side; validation is too good by as much. Remove the copies.",
            rows.source,
            num_twice,
        )
    return train, validation


def _processor_digest(
    kind: type[Task], processor: Any, rows: Rows, max_length: int
) -> ContentDigest:
    if kind.processor == "tokenizer":
        return tokenizer_digest(processor, next(iter(rows.inputs.values())), max_length)
    return content_digest(canonical_json(json.loads(processor.to_json_string())))


@contextlib.contextmanager
def _mapped_pieces(examples: Examples) -> Iterator[memoryview]:
    """What is written of examples: on the disk, and not in memory once more.

    Raises:
        StorageFullError: when there is no space left for it.
    """
    with tempfile.TemporaryFile(prefix="autofreeze-data-") as file:
        try:
            for piece in examples.pieces():
                file.write(piece)
            file.flush()
        except OSError as error:
            raise temporary_files_full(error) or error from error
        # Unmapped with its last user: an error on the way may still have it.
        yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


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
