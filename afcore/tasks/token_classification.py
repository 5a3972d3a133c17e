"""Token classification: a label for each word of a text (names, parts of speech)."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from afcore.data.column_file import ColumnFile
from afcore.data.examples import Column, Examples
from afcore.data.sources import Field, Rows
from afcore.data.stored_values import AT_ONCE, StoredValues
from afcore.data.text_lists import read_text_lists
from afcore.errors import DataError
from afcore.tasks.entities import are_plain, entities, read_tags
from afcore.tasks.label_names import (
    label_settings,
    learn_label_names,
    read_label_names,
    shown_labels,
)
from afcore.tasks.scores import TOKEN_LOSS, RowValues, Score
from afcore.tasks.task import NO_ANSWER, Reads, Targets, Task
from afcore.tasks.tokenizing import check_offsets, encodings
from afcore.tasks.tokens import mean_losses, num_answers, token_loss, unigram_entropy
from afcore.tasks.word_positions import NOT_READ, word_positions

__all__ = ["TokenClassification"]

_OUTSIDE = "O"
_UNKNOWN = -1
_log = logging.getLogger(__name__)


def _share(right: str, *of: str) -> Callable[[RowValues], float]:
    """Of sums over rows: how many are right, of the mean of others; 0 of none."""

    def compute(values: RowValues) -> float:
        count = sum(float(values[name].sum()) for name in of) / len(of)
        return float(values[right].sum()) / count if count else 0.0

    return compute


def _score(name: str, title: str, right: str, *of: str, stops: bool = False) -> Score:
    compute = _share(right, *of)
    return Score(name, title, (right, *of), compute, in_percent=True, stops=stops)


class TokenClassification(Task):
    """A label of ``c`` for each word of a row: a list of words, or words with white space between.

    A word's label is asked for at its first token. Words that are cut off, or have no token, are
    answered with ``O``, or the most frequent label where there is no such, and scored so.

    Attributes:
        label_names: c.
        unread: the answer for a word that the model has not seen: ``O``, or the most frequent.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        _score("f1", "F1 of entities", "found", "answered", "expected", stops=True),
        _score("precision", "precision of entities", "found", "answered"),
        _score("recall", "recall of entities", "found", "expected"),
        _score("accuracy", "accuracy of words", "words_right", "words"),
        TOKEN_LOSS,
    )
    head_reads: ClassVar[Reads] = "all"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    pipeline_tag: ClassVar[str] = "token-classification"
    # Without the label O, MLflow raises where a text has no other.
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "aggregation_strategy": "first",
        "ignore_labels": [],
    }
    columns: ClassVar[Mapping[str, str]] = {"text": "tokens", "label": "labels"}

    name: Literal["token-classification"] = "token-classification"
    label_names: list[str]
    unread: str

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``text``, the words; and ``label``, one a word."""
        text, label = columns.get("text"), columns.get("label")
        found = [] if text is None else [Field("text", text, read_text_lists)]
        if label is not None:
            found.append(Field("label", label, read_text_lists, is_target=True))
        return found

    @classmethod
    def learn(
        cls, splits: Mapping[str, Rows], everything: Rows, processor: Any
    ) -> "TokenClassification":
        """The labels; those of validation and test must be among them."""
        check_offsets(processor, cls.model_fields["name"].default)
        for rows in splits.values():
            _check_labels(rows)
        names = learn_label_names(splits, everything, lambda labels: labels)
        counts = Counter(label for labels in everything.targets["label"] for label in labels)
        unread = _OUTSIDE if _OUTSIDE in names else max(names, key=lambda name: counts[name])
        return cls(label_names=names, unread=unread)

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``input_ids``; ``labels`` at the first token of each word, :data:`NO_ANSWER` elsewhere.

        References: ``positions``, [w] of a row, the token that each word begins with, or
        :data:`NOT_READ`; and ``word_labels``, [w], where there are labels.
        """
        words = rows.inputs["text"]
        texts = StoredValues(" ".join(some) for some in words)
        options = {
            "truncation": True,
            "max_length": max_length,
            "return_offsets_mapping": True,
        }
        found, unread = (ColumnFile(), ColumnFile()), ColumnFile(is_ragged=False)
        for start, encoded in encodings(processor, rows.source, (texts,), **options):
            some = words[start : start + len(encoded["input_ids"])]
            given = zip(some, encoded["offset_mapping"], strict=True)
            at = [word_positions(*one) for one in given]
            for file, values in zip(found, (encoded["input_ids"], at), strict=True):
                file.add(values)
            unread.add([one.count(NOT_READ) for one in at])
        tokens, positions = (file.column() for file in found)
        _check_read(rows, unread.column().values, positions, max_length)
        inputs, references = {"input_ids": tokens}, {"positions": positions}
        if "label" not in rows.targets:
            return Examples(inputs, references=references)
        _check_labels(rows)
        references["word_labels"], labels = self._labels(rows, tokens, positions)
        return Examples(inputs, {"labels": labels}, references=references)

    def _labels(self, rows: Rows, tokens: Column, positions: Column) -> tuple[Column, Column]:
        """Of the words, and of the tokens."""
        index = {name: i for i, name in enumerate(self.label_names)}
        of_words, of_tokens = ColumnFile(), ColumnFile()
        for start in range(0, len(rows), AT_ONCE):
            some = rows.targets["label"][start : start + AT_ONCE]
            known = [[index.get(name, _UNKNOWN) for name in one] for one in some]
            of_words.add(known)
            of_tokens.add(
                [
                    _at_positions(one, positions.row(row), len(tokens.row(row)))
                    for row, one in enumerate(known, start)
                ]
            )
        return of_words.column(), of_tokens.column()

    def unknown_labels(self, labels: Sequence[list[str]]) -> list[str]:
        """Not among the label names."""
        known = set(self.label_names)
        return [label for some in labels for label in some if label not in known]

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """Of labels among which none is outside of entities."""
        of_entities = {"found", "answered", "expected"} & {*score.rows}
        if not of_entities or _OUTSIDE in self.label_names or not are_plain(self.label_names):
            return []
        return [
            f"no label is {_OUTSIDE}, which words outside of entities have: each run of words of "
            f"one label counts as an entity in the {score.title}, of "
            f"{shown_labels(self.label_names[:1])} too. Write {_OUTSIDE} for the label of words "
            "outside, and B- and I- before those of entities, or set training.score to accuracy"
        ]

    @property
    def head_settings(self) -> dict[str, Any]:
        """A number for each label."""
        return label_settings(self.label_names)

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], mean cross-entropy, in nats, of an example's words, from [b, s, c] logits."""
        return mean_losses(outputs, targets["labels"])

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Of all words of the batch; outputs may be [m, c], of words alone."""
        return token_loss(outputs, targets["labels"])

    def weights(self, examples: Examples) -> npt.NDArray[np.int64] | None:
        """Words that are read."""
        return num_answers(examples.targets["labels"])

    def answered_alone(self, targets: Targets) -> Tensor:
        """Where words begin."""
        return targets["labels"] != NO_ANSWER

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the labels' shares: their entropy, in nats."""
        return unigram_entropy(examples.targets["labels"])

    def answers(self, outputs: Tensor, inputs: dict[str, Tensor], model: Any) -> Tensor:
        """[b, s], the label with the largest logit."""
        return outputs.argmax(-1)

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """Of each row, [n] int64: entities ``found``, ``answered`` and ``expected``; words."""
        labels = examples.references["word_labels"]
        # The last one is of labels that the model does not know: an entity that it never answers.
        tags = [*read_tags(self.label_names), ("I", "\0")]
        found = []
        for row, answer in enumerate(self._words(examples, answers)):
            expected = labels.row(row)
            right = entities(tags[one] for one in expected)
            given = entities(tags[one] for one in answer)
            counts = (len(right & given), len(given), len(right))
            found.append((*counts, int((expected == answer).sum()), len(expected)))
        names = ("found", "answered", "expected", "words_right", "words")
        columns = np.asarray(found, dtype=np.int64).T
        return dict(zip(names, columns, strict=True))

    def _words(self, examples: Examples, answers: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Of each row, [w] the answer to each word."""
        positions, unread = examples.references["positions"], self.label_names.index(self.unread)
        rows = (positions.row(row) for row in range(len(examples)))
        return [
            np.where(at == NOT_READ, unread, answer[at])
            for at, answer in zip(rows, answers, strict=True)
        ]

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[str]:
        """The labels of the row's words, with a space between two."""
        return [
            " ".join(self.label_names[i] for i in row) for row in self._words(examples, answers)
        ]

    def described(self) -> tuple[str, str]:
        """Its labels."""
        count = len(self.label_names)
        return f"{count} labels of words", f"Labels: {shown_labels(self.label_names)}"

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "TokenClassification | None":
        """Any model with such a head."""
        check_offsets(processor, cls.model_fields["name"].default)
        names = read_label_names(name, config, ours=ours)
        unread = _OUTSIDE if _OUTSIDE in names else names[0]
        return cls(label_names=names, unread=unread)


def _at_positions(
    labels: list[int], positions: npt.NDArray[Any], num_tokens: int
) -> npt.NDArray[np.int32]:
    """[s], each word's label at its first token."""
    found = np.full(num_tokens, NO_ANSWER, dtype=np.int32)
    is_read = positions != NOT_READ
    found[positions[is_read]] = np.asarray(labels, dtype=np.int32)[is_read]
    return found


def _check_labels(rows: Rows) -> None:
    """As many labels as words, of no white space: predictions are written with spaces between."""
    for row, (words, labels) in enumerate(
        zip(rows.inputs["text"], rows.targets["label"], strict=True)
    ):
        if len(words) != len(labels):
            raise DataError(
                f"data {rows.source!r}: {len(words)} words and {len(labels)} labels in "
                f"{rows.place(row)}. Write a label for each word"
            )
        wrong = [label for label in labels if len(label.split()) != 1]
        if wrong:
            raise DataError(
                f"data {rows.source!r}: the label {wrong[0]!r} in {rows.place(row)} is no word. "
                "Write a label without white space for each word, such as O"
            )


def _check_read(rows: Rows, unread: npt.NDArray[Any], positions: Column, max_length: int) -> None:
    """Say how many words have no token, [n] of each row; a row must have some."""
    assert positions.offsets is not None
    for row in np.flatnonzero(unread == np.diff(positions.offsets)):
        raise DataError(
            f"data {rows.source!r}: no word in {rows.place(int(row))} has a token. Fill or remove "
            "the row"
        )
    if unread.any():
        some = np.flatnonzero(unread)
        _log.warning(
            "data %r: %d of %d words, in %d of %d rows, are not read, as they stand beyond "
            "data.max_length (%d tokens), or have no token. They are answered all alike, and "
            "scored so. The first stand in %s.",
            *(rows.source, int(unread.sum()), len(positions.values)),
            *(len(some), len(positions), max_length, rows.place(int(some[0]))),
        )
