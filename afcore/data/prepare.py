"""Text -> tokens, once per (data, tokenizer, length): ragged, with stable example ids.

A split of ``n`` examples with ``t`` tokens in all is three arrays; example ``i`` has the tokens
``tokens[offsets[i]:offsets[i + 1]]``, and ``i`` is its id for ever.
"""

import json
import logging
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from afcore.data.sources import Rows, load_rows
from afcore.data.split import held_out
from afcore.data.tokenizer_checks import check_known, tokenizer_digest
from afcore.digest import ContentDigest, RecipeDigest, content_digest, recipe_digest
from afcore.errors import DataError, IntegrityError
from afcore.numerics import numerics_of
from afcore.storage.objects import Storage

__all__ = ["Examples", "PreparedData", "open_prepared", "prepare", "tokenize"]

_TOKENIZE_ROWS = 10_000
_INTEGER = re.compile(r"-?[0-9]{1,1000}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Examples:
    """One split, tokenized.

    Attributes:
        tokens: [t] int32.
        offsets: [n + 1] int64, token offsets.
        labels: [n] int64, index into the label names; -1 of a row to be predicted, if it has none
            of them.
    """

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[n] int64, tokens of each example."""
        return np.diff(self.offsets)

    @cached_property
    def digest(self) -> ContentDigest:
        """Names the inputs of the model: tokens and offsets, not the labels."""
        return content_digest(self.tokens.tobytes() + self.offsets.tobytes())


@dataclass(frozen=True)
class PreparedData:
    """All splits; ``digest`` is the recipe's and names the folder in the store."""

    digest: RecipeDigest
    label_names: list[str]
    train: Examples
    validation: Examples
    test: Examples | None


def prepare(
    storage: Storage,
    tokenizer: Any,
    *,
    train: str,
    validation: str | float,
    test: str | None,
    text: str,
    label: str,
    group: str | None,
    max_length: int,
    limit: int | None,
    test_limit: int | None,
    encoding: str = "utf-8",
) -> PreparedData:
    """Load, split and tokenize; what was prepared before from the same rows is opened.

    The arguments are the keys of ``data`` in the configuration. The name covers each split's rows,
    so whatever decides the split needs no part in it.

    Raises:
        DataError: for data that cannot be read, one class only, too little to hold out validation,
            a label in validation or test that training never saw, or words that are all unknown.
    """
    train_rows = load_rows(train, "train", text, label, limit, group, encoding)
    # All of them: a rare label may be held out whole.
    known = set(train_rows.labels)
    if isinstance(validation, str):
        validation_rows = load_rows(validation, "validation", text, label, None, None, encoding)
    else:
        train_rows, validation_rows = _hold_out(train_rows, validation)
    splits = {"train": train_rows, "validation": validation_rows}
    if test is not None:
        splits["test"] = load_rows(test, "test", text, label, test_limit, None, encoding)
    label_names = _label_names(splits, known)
    digest = recipe_digest(
        {
            "schema": 2,
            "numerics": numerics_of("data"),
            "rows": {name: _rows_digest(rows) for name, rows in splits.items()},
            "tokenizer": tokenizer_digest(tokenizer, train_rows.texts, max_length),
            "max_length": max_length,
        }
    )
    data = _open_sound(storage, digest)
    if data is None or data.label_names != label_names:
        manifest: dict[str, Any] = {"label_names": label_names, "splits": {}}
        for name, rows in splits.items():
            content = _encode(tokenize(tokenizer, rows, label_names, max_length))
            storage.put(_key(digest, f"{name}.safetensors"), content)
            manifest["splits"][name] = content_digest(content)
        storage.put(_key(digest, "manifest.json"), json.dumps(manifest).encode())
        data = open_prepared(storage, digest)
    check_known(tokenizer, data.train.tokens, data.train.offsets, train_rows.source)
    _log.info(
        "data: %d examples to train on, %d to validate, %d to test, %d classes, %.1f tokens each",
        len(data.train),
        len(data.validation),
        len(data.test) if data.test else 0,
        len(label_names),
        data.train.lengths.mean(),
    )
    return data


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
        contents, label_names = dict(manifest["splits"]), list(manifest["label_names"])
        train, validation = contents["train"], contents["validation"]
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(storage, key, "is damaged") from error
    return PreparedData(
        digest,
        label_names,
        _read(storage, digest, "train", train),
        _read(storage, digest, "validation", validation),
        _read(storage, digest, "test", contents["test"]) if "test" in contents else None,
    )


def tokenize(tokenizer: Any, rows: Rows, label_names: list[str], max_length: int) -> Examples:
    """Cut to ``max_length`` tokens.

    Raises:
        DataError: for a text without tokens.
    """
    ids: list[list[int]] = []
    for start in range(0, len(rows.texts), _TOKENIZE_ROWS):
        texts = rows.texts[start : start + _TOKENIZE_ROWS]
        ids += tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]
        if len(rows.texts) > _TOKENIZE_ROWS:
            _log.info("tokenized %d of %d rows of %s", len(ids), len(rows.texts), rows.source)
    lengths = [len(example) for example in ids]
    if min(lengths) == 0:
        raise DataError(
            f"data {rows.source!r}: the text in {rows.place(lengths.index(0))} has no tokens. "
            "Fill or remove the row."
        )
    index = {name: i for i, name in enumerate(label_names)}
    return Examples(
        tokens=np.concatenate([np.asarray(example, dtype=np.int32) for example in ids]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=np.asarray([index.get(label, -1) for label in rows.labels], dtype=np.int64),
    )


def _read(storage: Storage, digest: RecipeDigest, name: str, expected: ContentDigest) -> Examples:
    key = _key(digest, f"{name}.safetensors")
    try:
        content = storage.get(key)
    except KeyError as error:
        raise _unusable(storage, key, "is missing") from error
    if content_digest(content) != expected:
        raise _unusable(storage, key, "is damaged")
    return Examples(**load_tensors(content))


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
    keys, what = (rows.texts, "text") if rows.groups is None else (rows.groups, "group")
    if len(set(keys)) < 2:
        raise DataError(
            f"data {rows.source!r}: {len(keys)} rows with {len(set(keys))} different {what} are "
            f"too few to hold out validation, as rows of one {what} stay together. Give other data "
            "with data.validation."
        )
    held = held_out(keys, fraction)
    train, validation = _pick(rows, np.flatnonzero(~held)), _pick(rows, np.flatnonzero(held))
    if num_twice := len(set(train.texts) & set(validation.texts)):
        _log.warning(
            "data %r: %d texts are both trained and validated on, as they stand in groups of "
            "either side; validation is too good by as much. Remove the copies.",
            rows.source,
            num_twice,
        )
    return train, validation


def _pick(rows: Rows, ids: npt.NDArray[np.int64]) -> Rows:
    return Rows(
        rows.source,
        [rows.texts[i] for i in ids],
        [rows.labels[i] for i in ids],
        places=None if rows.places is None else rows.places.pick(ids),
        left_out=rows.left_out,
    )


def _label_names(splits: dict[str, Rows], known: set[str]) -> list[str]:
    left_out = splits["train"].left_out
    raised = " Raise data.limit, or leave it out." if left_out else ""
    if len(known) < 2:
        lost = f": data.limit leaves {_shown(left_out)} out" if left_out else ""
        raise DataError(
            f"data {splits['train'].source!r} has one class only: {min(known)!r}{lost}.{raised}"
        )
    names = sorted(known)
    if all(_INTEGER.fullmatch(name) for name in names):
        names.sort(key=int)
    for split, rows in splits.items():
        unknown = set(rows.labels) - known
        if unknown:
            first = next(i for i, label in enumerate(rows.labels) if label in unknown)
            raise DataError(
                f"data {rows.source!r} ({split}) has labels that the training set never shows: "
                f"{_shown(unknown)}. Known are {_shown(names, 20)}. The first stands in "
                f"{rows.place(first)}.{_why_unknown(unknown, known, left_out)}"
            )
    if left_out:
        _log.warning(
            "data.limit leaves no row of %s to train on; the model will not know it.%s",
            _shown(left_out),
            raised,
        )
    _warn_of_like_labels(splits["train"].source, names)
    return names


def _shown(labels: Iterable[str], count: int = 5) -> str:
    labels = list(labels) if isinstance(labels, list) else sorted(labels)
    more = f" and {len(labels) - count} more" if len(labels) > count else ""
    return ", ".join(repr(label) for label in labels[:count]) + more


def _why_unknown(unknown: set[str], known: set[str], left_out: frozenset[str]) -> str:
    if lost := unknown & left_out:
        return f" data.limit leaves {_shown(lost)} out of it: raise data.limit, or leave it out."
    likes = {_alike(name): name for name in sorted(known)}
    for label in sorted(unknown):
        if like := likes.get(_alike(label)):
            return f" Labels are text: {label!r} is not {like!r}. Write them alike in both."
    return ""


def _warn_of_like_labels(source: str, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        like = seen.setdefault(_alike(name), name)
        if like != name:
            _log.warning(
                "data %r: the labels %r and %r look alike and are two classes, as labels are "
                "text. Write them alike if they are one.",
                source,
                like,
                name,
            )


def _alike(label: str) -> str:
    """The same for labels that a person may take for one: case, white space, a number's form."""
    text = "".join(c for c in unicodedata.normalize("NFKC", label).casefold() if c.isprintable())
    text = " ".join(text.split())
    try:
        return str(float(text))
    except ValueError:
        return text


def _rows_digest(rows: Rows) -> ContentDigest:
    return content_digest(json.dumps([rows.texts, rows.labels]).encode())


def _encode(examples: Examples) -> bytes:
    tensors: dict[str, npt.NDArray[Any]] = {
        "tokens": examples.tokens,
        "offsets": examples.offsets,
        "labels": examples.labels,
    }
    data: bytes = save_tensors(tensors)
    return data
