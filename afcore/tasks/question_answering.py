"""Extractive question answering: the answer is a span of a context, or there is none (SQuAD 2.0).

A long context is read in windows that overlap: an example each, of which a row may have several.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.data.column_file import ColumnFile
from afcore.data.examples import Examples
from afcore.data.sources import Field, Rows
from afcore.data.stored_values import StoredValues
from afcore.errors import DataError
from afcore.tasks.answer_spans import OUTSIDE, Span, best_span, span_of
from afcore.tasks.answer_texts import KnownAnswer, read_answers
from afcore.tasks.scores import LOG_LOSS, RowValues, Score, mean_of
from afcore.tasks.squad_scores import exact_match, token_f1
from afcore.tasks.task import Reads, Targets, Task
from afcore.tasks.text import text_fields
from afcore.tasks.tokenizing import check_offsets, encodings

__all__ = ["QuestionAnswering"]

_MAX_ANSWER_TOKENS = 30
_MAX_STRIDE = 128
_FEWEST_TOKENS = 16
_BETWEEN = "\x1f"  # answers of a row
_INPUTS = ("input_ids", "token_type_ids")
_TARGETS = ("start_positions", "end_positions")
_REFERENCES = ("characters", "text", "null", "expected")
_NUMBERS = ("rows", "null", *_TARGETS)
_log = logging.getLogger(__name__)


class QuestionAnswering(Task):
    """A question to a context, answered by a span of it, of at most 30 tokens.

    The context is cut into windows, which have a quarter of ``max_length`` in common, 128 tokens at
    most. A window without the answer is to be answered with its first special token (``[CLS]``).
    Of a row the best span of all windows is the answer, unless the special token scores higher in
    each of them.

    Attributes:
        may_be_blank: whether the training set has questions without an answer; if not, each is
            given one.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        mean_of("f1", "f1", "F1 of words", in_percent=True, stops=True),
        mean_of("exact", "exact_match", "exact match", in_percent=True, stops=True),
        LOG_LOSS,
    )
    head_reads: ClassVar[Reads] = "all"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    pipeline_tag: ClassVar[str] = "question-answering"
    columns: ClassVar[Mapping[str, str]] = {
        "text": "question",
        "text_pair": "context",
        "label": "answers",
    }

    name: Literal["question-answering"] = "question-answering"
    may_be_blank: bool

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``text``, the question; ``text_pair``, the context; and ``label``, the answers."""
        found = text_fields(columns)
        label = columns.get("label")
        if label is not None:
            found.append(Field("label", label, read_answers, may_be_blank=True, is_target=True))
        return found

    @classmethod
    def learn(
        cls, splits: Mapping[str, Rows], everything: Rows, processor: Any
    ) -> "QuestionAnswering":
        """Whether questions may have no answer."""
        check_offsets(processor, cls.model_fields["name"].default)
        answered = {bool(answers) for answers in everything.targets["label"]}
        if True not in answered:
            raise DataError(
                f"data {everything.source!r}: no question has an answer. Is it the column that "
                "data.label should name?"
            )
        return cls(may_be_blank=False in answered)

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``input_ids``, perhaps ``token_type_ids``; ``start_positions`` and ``end_positions``.

        References, by window: ``null``, the token that says "no answer"; ``characters``, [s, 2] of
        each token, in ``text``, which is the part of the context that the window has, by its code
        points; and with a row's first window its answers, ``expected``.
        """
        if max_length < _FEWEST_TOKENS:
            raise DataError(
                f"data.max_length is {max_length}: a question and its context need "
                f"{_FEWEST_TOKENS} tokens or more"
            )
        found, last = _Columns(), -1
        for row, window in self._windows(processor, rows, max_length):
            found["rows"].add([row])
            for name in _INPUTS:
                if name in window:
                    found[name].add([window[name]])
            self._place(found, rows, row, window, row != last)
            last = row
        columns = {name: file.column() for name, file in found.items()}
        inputs, targets, references = (
            {name: columns[name] for name in names if name in columns}
            for names in (_INPUTS, _TARGETS, _REFERENCES)
        )
        return Examples(inputs, targets, references=references, rows=columns["rows"].values)

    def _windows(
        self, processor: Any, rows: Rows, max_length: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row, of a window the tokens, their characters, and the token of no answer)."""
        questions = _cut_questions(processor, rows, max_length // 2)
        given = (questions, rows.inputs["text_pair"])
        options = {
            "truncation": "only_second",
            "max_length": max_length,
            "stride": min(_MAX_STRIDE, max_length // 4),
            "return_overflowing_tokens": True,
            "return_offsets_mapping": True,
        }
        special = processor.cls_token_id, processor.bos_token_id
        for start, encoded in encodings(processor, rows.source, given, **options):
            for number, row in enumerate(encoded["overflow_to_sample_mapping"], start):
                window = {
                    name: encoded[name][number - start] for name in _INPUTS if name in encoded
                }
                ids = window["input_ids"]
                context = np.asarray([one == 1 for one in encoded.sequence_ids(number - start)])
                offsets = np.asarray(encoded["offset_mapping"][number - start], dtype=np.int32)
                # Of no characters: what a tokenizer puts before a text.
                context &= offsets[:, 1] > offsets[:, 0]
                window["characters"] = np.where(context[:, None], offsets, OUTSIDE)
                window["null"] = next((ids.index(one) for one in special if one in ids), 0)
                yield start + row, window

    def _place(
        self, found: "_Columns", rows: Rows, row: int, window: dict[str, Any], first: bool
    ) -> None:
        """Add what a window's answers are read by, and what it should be answered with."""
        characters, context = window["characters"], rows.inputs["text_pair"][row]
        inside = characters[characters[:, 0] != OUTSIDE]
        if not len(inside):
            raise DataError(
                f"data {rows.source!r}: the context in {rows.place(row)} has no tokens. Fill or "
                "remove the row"
            )
        begin, end = int(inside[0, 0]), int(inside[-1, 1])
        moved = np.where(characters == OUTSIDE, OUTSIDE, characters - begin)
        found["characters"].add([moved])
        found["text"].add([_code_points(context[begin:end])])
        found["null"].add([window["null"]])
        if "label" not in rows.targets:
            return
        answers = rows.targets["label"][row]
        span = None
        if answers:
            start = _start(rows, row, answers[0])
            span = span_of(characters, start, start + len(answers[0][0]))
        for name, token in zip(_TARGETS, span or (window["null"], window["null"]), strict=True):
            found[name].add([token])
        texts = _BETWEEN.join(text for text, _ in answers) if first else ""
        found["expected"].add([_code_points(texts)])

    @property
    def head_settings(self) -> dict[str, Any]:
        """To be the first, and the last token."""
        return {"num_labels": 2}

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], mean of the cross-entropies of first and last token, in nats, of [b, s, 2] logits.

        Over all columns of the batch, padding too, as Transformers computes it.
        """
        wanted = (targets["start_positions"], targets["end_positions"])
        each = [
            torch.nn.functional.cross_entropy(outputs[..., i], one, reduction="none")
            for i, one in enumerate(wanted)
        ]
        return (each[0] + each[1]) / 2

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the shares of the positions: mean of both entropies, in nats."""
        found = []
        for column in examples.targets.values():
            shares = np.unique(column.values, return_counts=True)[1] / len(examples)
            found.append(-(shares * np.log(shares)).sum())
        return float(np.mean(found))

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``exact`` and ``f1``, [r] of each row, of [n, s, 2] logits of each window."""
        expected = examples.references["expected"]
        numbers = (
            np.zeros(len(examples), dtype=np.int64) if examples.rows is None else examples.rows
        )
        firsts = np.flatnonzero(np.diff(numbers, prepend=-1))
        known = [_text(expected.row(int(i))).split(_BETWEEN) for i in firsts]
        given = self.predictions(examples, answers)
        pairs = list(zip(known, given, strict=True))
        return {
            "exact": np.asarray([exact_match(*pair) for pair in pairs]),
            "f1": np.asarray([token_f1(*pair) for pair in pairs]),
        }

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[str]:
        """The answers' texts, blank for none."""
        assert examples.rows is not None
        characters, texts = examples.references["characters"], examples.references["text"]
        nulls = examples.references["null"].values
        best: dict[int, tuple[Span, int]] = {}
        lowest: dict[int, float] = {}
        for window, row in enumerate(examples.rows.tolist()):
            span = best_span(answers[window], characters.row(window), _MAX_ANSWER_TOKENS)
            if row not in best or span.score > best[row][0].score:
                best[row] = (span, window)
            null = float(answers[window, nulls[window]].sum())
            lowest[row] = min(lowest.get(row, null), null)
        found = []
        for row, (span, window) in best.items():
            at = characters.row(window)
            text = _text(texts.row(window)[at[span.first, 0] : at[span.last, 1]])
            found.append("" if self.may_be_blank and lowest[row] > span.score else text.strip())
        return found

    def described(self) -> tuple[str, str]:
        """Whether it may say that there is no answer."""
        blank = "nothing where it has no answer" if self.may_be_blank else "always something"
        return "answers in a context", f"Answers are spans of the context, {blank}."

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "QuestionAnswering | None":
        """Any model with such a head."""
        check_offsets(processor, cls.model_fields["name"].default)
        return cls(may_be_blank=True)


class _Columns(dict[str, ColumnFile]):
    """Made when they are first asked for: a number a window, or a row of them."""

    def __missing__(self, name: str) -> ColumnFile:
        is_number = name in _NUMBERS
        self[name] = ColumnFile(np.int64 if is_number else np.int32, is_ragged=not is_number)
        return self[name]


def _code_points(text: str) -> npt.NDArray[np.int32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.int32)


def _text(code_points: npt.NDArray[np.int32]) -> str:
    return code_points.astype("<i4").tobytes().decode("utf-32-le")


def _start(rows: Rows, row: int, answer: KnownAnswer) -> int:
    """The first character of an answer in its context."""
    context, (text, start) = rows.inputs["text_pair"][row], answer
    if start is not None and context[start : start + len(text)] == text:
        return start
    found: int = context.find(text)
    if found < 0:
        raise DataError(
            f"data {rows.source!r}: the answer {text[:40]!r} in {rows.place(row)} does not stand "
            "in its context. Write it as it stands there, or leave it blank if there is none"
        )
    return found


def _cut_questions(processor: Any, rows: Rows, max_tokens: int) -> Sequence[str]:
    """What is left of them, so that half of a window is the context's."""
    questions, shorter = rows.inputs["text"], list[int]()
    options = {"truncation": True, "max_length": max_tokens, "return_offsets_mapping": True}

    def cut() -> Iterator[str]:
        known = enumerate(questions)
        for _, encoded in encodings(
            processor, rows.source, (questions,), add_special_tokens=False, **options
        ):
            for offsets, (row, text) in zip(encoded["offset_mapping"], known, strict=False):
                left = text[: offsets[-1][1]] if len(offsets) == max_tokens else text
                if len(left) < len(text.rstrip()):
                    shorter.append(row)
                yield left

    found = StoredValues(cut())
    if shorter:
        _log.warning(
            "data %r: %d of %d questions are cut at %d tokens, half of data.max_length (the first "
            "is in %s).",
            *(rows.source, len(shorter), len(found), max_tokens, rows.place(shorter[0])),
        )
    return found
