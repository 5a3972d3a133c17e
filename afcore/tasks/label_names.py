"""The labels of a data set: which there are, in which order, and which rows have others."""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from afcore.data.sources import Rows
from afcore.errors import DataError, ModelError, some_of

__all__ = ["label_settings", "learn_label_names", "read_label_names", "shown_labels"]

_INTEGER = re.compile(r"-?[0-9]{1,1000}")
_log = logging.getLogger(__name__)


def label_settings(label_names: list[str]) -> dict[str, Any]:
    """What a model's configuration says of its labels."""
    return {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {label: i for i, label in enumerate(label_names)},
    }


def read_label_names(name: str, config: Any, *, ours: bool) -> list[str]:
    """Those that a trained model's configuration names.

    Args:
        name: of the model, as the user gave it.
        config: of the model.
        ours: it was trained here: then ``LABEL_0`` is a name like others.

    Raises:
        ModelError: when it names none.
    """
    numbers = range(config.num_labels)
    if any(number not in config.id2label for number in numbers):
        raise ModelError(
            f"model {name!r} does not name its labels: id2label in config.json has the numbers "
            f"{', '.join(map(str, config.id2label))}, and 0 to {numbers[-1]} were expected. Write "
            "them there."
        )
    names = [str(config.id2label[number]) for number in numbers]
    if names == [f"LABEL_{number}" for number in range(len(names))] and not ours:
        raise ModelError(
            f"model {name!r} does not name its labels: config.json has no id2label. Write it "
            'there, e.g. "id2label": {"0": "negative", "1": "positive"}.'
        )
    return names


def learn_label_names(
    splits: Mapping[str, Rows], everything: Rows, labels_of: Callable[[Any], Iterable[str]]
) -> list[str]:
    """The labels of the training set, in order: numbers by their size, else as texts.

    Those of rows that are held out for validation are among them: a rare label may be held out
    whole.

    Args:
        splits: rows of ``train``, ``validation`` and perhaps ``test``.
        everything: the training set, held out rows among them.
        labels_of: the labels of a row, from its target.

    Raises:
        DataError: for no label, or one class only, or a label that only validation or test shows.
    """
    targets = {split: _targets(rows) for split, rows in splits.items()}
    known = {label for target in _targets(everything) for label in labels_of(target)}
    beyond = chain.from_iterable(everything.beyond.values())
    left_out = {label for target in beyond for label in labels_of(target)} - known
    raised = " Raise data.limit, or leave it out." if left_out else ""
    if not known:
        raise DataError(
            f"data {splits['train'].source!r}: no row has a label."
            f"{raised or ' Is it the column that data.label should name?'}"
        )
    if len(known) < 2:
        lost = f": data.limit leaves {shown_labels(left_out, 5)} out" if left_out else ""
        raise DataError(
            f"data {splits['train'].source!r} has one class only: {min(known)!r}{lost}.{raised}"
        )
    names = sorted(known)
    if all(_INTEGER.fullmatch(name) for name in names):
        names.sort(key=int)
    for split, rows in splits.items():
        unknown = {label for target in targets[split] for label in labels_of(target)} - known
        if unknown:
            first = next(i for i, t in enumerate(targets[split]) if unknown & set(labels_of(t)))
            raise DataError(
                f"data {rows.source!r} ({split}) has labels that the training set never shows: "
                f"{shown_labels(unknown, 5)}. Known are {shown_labels(names, 20)}. The first "
                f"stands in {rows.place(first)}.{_why_unknown(unknown, known, left_out)}"
            )
    if left_out:
        _log.warning(
            "data.limit leaves no row of %s to train on; the model will not know it.%s",
            shown_labels(left_out, 5),
            raised,
        )
    _warn_of_like_labels(splits["train"].source, names)
    return names


def _targets(rows: Rows) -> Sequence[Any]:
    (values,) = rows.targets.values()
    return values


def shown_labels(labels: Iterable[str], count: int = 50) -> str:
    """The first ``count`` of them, quoted."""
    ordered = labels if isinstance(labels, list) else sorted(labels)
    return some_of([repr(label) for label in ordered], count)


def _why_unknown(unknown: set[str], known: set[str], left_out: set[str]) -> str:
    if lost := unknown & left_out:
        return (
            f" data.limit leaves {shown_labels(lost, 5)} out of it: raise data.limit, or leave it "
            "out."
        )
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
