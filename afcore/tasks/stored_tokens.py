"""Tokens in the store: those of all rows once, and of a fold which of them validate."""

import contextlib
import json
import logging
import mmap
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.data.examples import Examples
from afcore.data.row_digests import RowDigests, digest_of_rows, row_digests
from afcore.data.sources import Rows
from afcore.data.tensor_file import tensor_pieces, view_tensors
from afcore.digest import ContentDigest, RecipeDigest, content_digest, recipe_digest
from afcore.disk_space import temporary_files_full
from afcore.errors import IntegrityError
from afcore.storage.objects import Storage
from afcore.tasks.known_tasks import parse_task
from afcore.tasks.task import Task

__all__ = [
    "PreparedData",
    "Tokenizing",
    "names_of_tokens",
    "open_prepared",
    "open_sound",
    "store_fold",
    "store_tokens",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedData:
    """All splits; ``digest`` is the recipe's and names the folder in the store.

    ``revisions`` are the commits of the hub data sets that the rows were just read from, by name;
    ``row_digests`` name each split's rows, in any order. ``held_rows`` are, of a fold, the rows of
    the training set that validate, [m] ascending; ``train`` has all examples then, of which those
    of the other rows are ``drawn``.
    """

    digest: RecipeDigest
    task: Task
    train: Examples
    validation: Examples
    test: Examples | None
    revisions: Mapping[str, str] = field(default_factory=dict)
    row_digests: Mapping[str, ContentDigest] = field(default_factory=dict)
    held_rows: npt.NDArray[np.int64] | None = None

    @property
    def num_train_rows(self) -> int:
        """Rows that are trained on."""
        return self.train.num_rows - (0 if self.held_rows is None else len(self.held_rows))

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


@dataclass(frozen=True)
class Tokenizing:
    """How rows become tokens."""

    task: Task
    processor: Any
    max_length: int

    def examples(self, split: str, rows: Rows) -> Examples:
        """Of the rows of a split."""
        make = self.task.training_examples if split == "train" else self.task.examples
        return make(self.processor, rows, self.max_length)


def store_tokens(
    storage: Storage,
    digest: RecipeDigest,
    splits: Mapping[str, Rows],
    tokens: Tokenizing,
    digests: Mapping[str, RowDigests] | None = None,
) -> None:
    """Tokenize the rows of all splits.

    Args:
        storage: where.
        digest: name of the tokens.
        splits: rows by split.
        tokens: how they are made.
        digests: of each row, by split, where they are known.
    """
    manifest: dict[str, Any] = {"task": tokens.task.model_dump(), "splits": {}, "rows": {}}
    for name, rows in splits.items():
        with _mapped_pieces(tokens.examples(name, rows)) as content:
            storage.put(_key(digest, f"{name}.safetensors"), content)
            manifest["splits"][name] = content_digest(content)
        of_rows = row_digests(rows) if digests is None else digests[name]
        manifest["rows"][name] = digest_of_rows(of_rows)
    _put_manifest(storage, digest, manifest)


def store_fold(
    storage: Storage,
    whole: RecipeDigest,
    splits: Mapping[str, Rows],
    tokens: Tokenizing,
    digest: RecipeDigest,
    held: npt.NDArray[np.bool_],
) -> None:
    """Note which rows validate; the tokens of all rows lie there once, for all folds.

    Args:
        storage: where.
        whole: name of the tokens, which are made where they are not there.
        splits: rows of ``train``, all of them, and perhaps of ``test``.
        tokens: how they are made.
        digest: name of the fold.
        held: [n], which rows of ``train`` validate.
    """
    digests = {name: row_digests(rows) for name, rows in splits.items()}
    try:
        for name, content in _manifest(storage, whole)["splits"].items():
            _content(storage, whole, name, content)
    except IntegrityError:
        store_tokens(storage, whole, splits, tokens, digests)
    content = b"".join(tensor_pieces({"rows": np.flatnonzero(held)}))
    storage.put(_key(digest, "held.safetensors"), content)
    trained = digests.pop("train")
    rows = {"train": trained[~held], "validation": trained[held], **digests}
    manifest = {
        "task": tokens.task.model_dump(),
        "whole": whole,
        "held": content_digest(content),
        "rows": {name: digest_of_rows(found) for name, found in rows.items()},
    }
    _put_manifest(storage, digest, manifest)


def _put_manifest(storage: Storage, digest: RecipeDigest, manifest: dict[str, Any]) -> None:
    whole = manifest | {"digest": recipe_digest(manifest)}
    storage.put(_key(digest, "manifest.json"), json.dumps(whole).encode())


def open_prepared(storage: Storage, digest: RecipeDigest) -> PreparedData:
    """Open what :func:`afcore.tasks.prepare.prepare` stored.

    Raises:
        IntegrityError: when something of it is missing or damaged.
    """
    manifest = _manifest(storage, digest)
    try:
        task = parse_task(manifest["task"])
        whole = RecipeDigest(manifest.get("whole", digest))
        stored = manifest if whole == digest else _manifest(storage, whole)
        contents: dict[str, ContentDigest] = dict(stored["splits"])
        rows = dict(manifest.get("rows", contents))  # of a release before: digests of the tokens
        held = manifest.get("held")
        needed = ["train"] if held is not None else ["train", "validation"]
        train, *others = (contents[name] for name in needed)
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(storage, _key(digest, "manifest.json"), "is damaged") from error
    examples = _read(storage, whole, "train", train)
    test = _read(storage, whole, "test", contents["test"]) if "test" in contents else None
    if held is None:
        held_out = _read(storage, digest, "validation", others[0])
        return PreparedData(digest, task, examples, held_out, test, row_digests=rows)
    held_rows = view_tensors(_content(storage, digest, "held", held))["rows"]
    drawn = examples.of_rows(np.setdiff1d(np.arange(examples.num_rows), held_rows))
    held_out = examples.pick(examples.of_rows(held_rows))
    return PreparedData(
        digest,
        task,
        replace(examples, drawn=drawn),
        held_out,
        test,
        row_digests=rows,
        held_rows=held_rows,
    )


def names_of_tokens(storage: Storage, digest: RecipeDigest) -> list[RecipeDigest]:
    """What must be there for it to be opened: itself, and of a fold the tokens of all rows.

    Of one that is missing or damaged, itself: it is made anew.
    """
    try:
        whole = _manifest(storage, digest).get("whole")
    except IntegrityError:
        whole = None
    return [digest] if whole is None else [digest, RecipeDigest(whole)]


def _manifest(storage: Storage, digest: RecipeDigest) -> dict[str, Any]:
    key = _key(digest, "manifest.json")
    try:
        content = storage.get(key)
    except KeyError as error:
        raise _unusable(storage, key, "is missing") from error
    try:
        manifest: dict[str, Any] = json.loads(content)
        if manifest.pop("digest", None) not in (None, recipe_digest(manifest)):
            raise ValueError("other bytes than were written")
    except (ValueError, TypeError, AttributeError) as error:
        raise _unusable(storage, key, "is damaged") from error
    return manifest


def _read(storage: Storage, digest: RecipeDigest, name: str, expected: ContentDigest) -> Examples:
    return Examples.decode(_content(storage, digest, name, expected))


def _content(
    storage: Storage, digest: RecipeDigest, name: str, expected: ContentDigest
) -> bytes | memoryview:
    key = _key(digest, f"{name}.safetensors")
    try:
        content = storage.mapped(key)
    except KeyError as error:
        raise _unusable(storage, key, "is missing") from error
    if content_digest(content) != expected:
        raise _unusable(storage, key, "is damaged")
    return content


def _unusable(storage: Storage, key: str, why: str) -> IntegrityError:
    return IntegrityError(
        f"prepared data {storage.uri(key)} {why}. Start the same command again: it makes them "
        "anew from the rows."
    )


def open_sound(storage: Storage, digest: RecipeDigest) -> PreparedData | None:
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
