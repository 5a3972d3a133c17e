"""Causal language modeling: the next token, of plain text, of completions, or of conversations.

Training packs plain text: rows one after the other, an end token behind each, cut into blocks. What
is scored or predicted is never packed, so that a row's numbers are its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, repeat
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.data.column_file import ColumnFile
from afcore.data.examples import Examples
from afcore.data.sources import Field, Rows, read_texts
from afcore.data.stored_values import AT_ONCE
from afcore.data.table import Table
from afcore.errors import ConfigError, DataError, ModelError
from afcore.tasks.conversations import (
    is_conversation,
    means_conversation,
    read_conversations,
    tokens_of_conversations,
)
from afcore.tasks.scores import TOKEN_LOSS, RowValues, Score
from afcore.tasks.task import NO_ANSWER, Targets, Task
from afcore.tasks.tokenizing import encodings
from afcore.tasks.tokens import mean_losses, num_answers, token_loss, unigram_entropy

__all__ = ["CausalLanguageModeling", "packed", "windows"]

_AHEAD = 1e-4
"""Difference that a later token makes to earlier outputs, from which a model looks ahead."""

Asked = tuple[list[int], list[bool]]
"""Tokens of a row, and which of them are to be predicted: never the first."""


def _perplexity(values: RowValues) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(TOKEN_LOSS.compute(values)))


def packed(rows: Iterable[list[int]], size: int) -> Iterator[list[int]]:
    """All rows one after the other, cut into blocks of ``size`` tokens; the last may be shorter.

    A last block of a single token, which predicts nothing, is left out.
    """
    left: list[int] = []
    for row in rows:
        left += row
        whole = len(left) // size * size
        yield from (left[start : start + size] for start in range(0, whole, size))
        left = left[whole:]
    if len(left) > 1:
        yield left


def windows(tokens: list[int], size: int) -> list[list[int]]:
    """A row in pieces of ``size`` tokens at most, each of which begins with the one before's last.

    So each token but the first is predicted once.
    """
    starts = range(0, max(len(tokens) - 1, 1), size - 1)
    return [tokens[start : start + size] for start in starts]


class CausalLanguageModeling(Task):
    """The next token; perplexity says how many tokens it hesitates between.

    ``data.text`` names a column of texts, which are packed into blocks of ``data.max_length``
    tokens for training, as ``run_clm`` of Transformers does. Where ``data.label`` names a column,
    it holds completions of the texts, and loss and scores are of these alone. A column of
    conversations, lists of messages (``{"role": ..., "content": ...}``) or in a CSV the JSON of
    such, is written by the chat template of the tokenizer, and loss and scores are of what the
    assistant says. These two are cut at ``data.max_length`` and not packed. Scores are over the
    tokens of a split, each row by itself; the end of a text counts as one of its tokens.
    ``autofreeze predict`` writes the perplexity of each row.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score(
            "perplexity", "perplexity", ("losses", "weights"), _perplexity, higher_is_better=False
        ),
        TOKEN_LOSS,
    )
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    pipeline_tag: ClassVar[str] = "text-generation"
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    head_reads: ClassVar[Any] = "all"
    columns: ClassVar[Mapping[str, str]] = {"text": "text"}
    head_is_new: ClassVar[bool] = False

    name: Literal["causal-language-modeling"] = "causal-language-modeling"
    end_token_id: int = 0

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``text``, and ``label`` where it is given: nothing is a target, as all is read.

        Raises:
            ConfigError: for a second text, of which nothing would be read.
        """
        if columns.get("text_pair") is not None:
            raise ConfigError(
                "data.text_pair: task causal-language-modeling reads no second text; a completion "
                "is named by data.label"
            )
        found = [Field("text", str(columns["text"]), _read)]
        if (label := columns.get("label")) is not None:
            found.append(Field("label", label, read_texts))
        return found

    @classmethod
    def learn(
        cls, splits: Mapping[str, Rows], everything: Rows, processor: Any
    ) -> "CausalLanguageModeling":
        """The token that ends a text.

        Raises:
            ModelError: when the tokenizer has none.
            DataError: for conversations with completions.
        """
        texts = everything.inputs["text"]
        if "label" in everything.inputs and is_conversation(texts[0]):
            raise DataError(
                f"data {everything.source!r}: data.text names conversations, which hold their "
                "answers; leave data.label out"
            )
        return cls(end_token_id=_end_of(processor))

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``input_ids`` and ``labels``, those of a long text in windows."""
        found = self._asked(processor, rows, max_length)
        if not _is_plain(rows):
            return _examples(found)
        of_rows = ColumnFile(np.int64, is_ragged=False)

        def pieces() -> Iterator[Asked]:
            for row, (tokens, _) in enumerate(found):
                for piece in windows(tokens, max_length):
                    of_rows.add([row])
                    yield piece, [True] * len(piece)

        examples = _examples(pieces())
        return replace(examples, rows=of_rows.column().values)

    def training_examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """Of plain text: blocks."""
        if not _is_plain(rows):
            return self.examples(processor, rows, max_length)
        found = enumerate(tokens for tokens, _ in self._asked(processor, rows, max_length))
        follow = (tokens[row > 0 and tokens[0] == self.end_token_id :] for row, tokens in found)
        blocks = packed(follow, max_length)
        return _examples((block, [True] * len(block)) for block in blocks)

    def _asked(self, processor: Any, rows: Rows, max_length: int) -> Iterator[Asked]:
        """Of each row, whole where it is plain, else cut.

        Raises:
            DataError: at the end, for rows of which nothing is left to predict.
        """
        texts = rows.inputs["text"]
        if is_conversation(texts[0]):
            found = tokens_of_conversations(processor, rows)
        else:
            found = self._tokens(processor, rows.source, texts, rows.inputs.get("label"))
        if _is_plain(rows):
            yield from found
            return
        empty = []
        for row, (tokens, asked) in enumerate(found):
            if not any(asked[1:max_length]):
                empty.append(row)
            yield tokens[:max_length], asked[:max_length]
        if empty:
            raise DataError(
                f"data {rows.source!r}: nothing is left to predict in {len(empty)} of {len(rows)} "
                f"rows (the first is {rows.place(empty[0])}): what comes before fills all "
                f"{max_length} tokens. Raise data.max_length, or shorten or remove the rows"
            )

    def _tokens(
        self, processor: Any, source: str, texts: Sequence[str], completions: Sequence[str] | None
    ) -> Iterator[Asked]:
        """Texts between a first token and the end token, with their completions."""
        firsts = _without_end(processor, source, texts)
        seconds: Iterator[list[int]] = repeat([], len(texts))
        if completions is not None:
            seconds = _without_end(processor, source, completions, special=False)
        for first, second in zip(firsts, seconds, strict=True):
            has_start = first[:1] == [processor.bos_token_id]
            begun = first if has_start else [self.end_token_id, *first]
            asked = [completions is None] * len(begun) + [True] * (len(second) + 1)
            yield [*begun, *second, self.end_token_id], asked

    @property
    def head_settings(self) -> dict[str, Any]:
        """The model's own."""
        return {}

    def fitted(self, model: Any) -> Self:
        """Itself.

        Raises:
            ModelError: when the model is told tokens ahead of it, so that there is nothing to
                predict.
        """
        device = next(model.parameters()).device
        ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=device)
        was_training = model.training
        with torch.no_grad():
            one, other = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        model.train(was_training)
        if (one[:3] - other[:3]).abs().max() > _AHEAD * one.abs().max().clamp(min=1.0):
            raise ModelError(
                f"{type(model).__name__} reads the tokens that it should predict: it is an "
                "encoder. Give a decoder, such as GPT-2 or Llama, or choose another task"
            )
        return self

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], mean over the predicted tokens of the log loss, in nats, of [b, s, v] logits."""
        return mean_losses(outputs[:, :-1], targets["labels"][:, 1:])

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """The mean over all predicted tokens, as Transformers'."""
        return token_loss(outputs[:, :-1], targets["labels"][:, 1:])

    def weights(self, examples: Examples) -> npt.NDArray[np.int64] | None:
        """[n], predicted tokens of each."""
        return num_answers(examples.targets["labels"])

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the shares of the tokens: their entropy, in nats."""
        return unigram_entropy(examples.targets["labels"])

    def answers(self, outputs: Tensor, inputs: dict[str, Tensor], model: Any) -> Tensor:
        """[b], the losses: a logit for each word and position is not kept."""
        return self.losses(outputs, inputs)

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``losses``, [n] float32."""
        return {"losses": answers}

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[float]:
        """The perplexity of each row, over its windows."""
        weights = num_answers(examples.targets["labels"])
        rows = np.arange(len(examples)) if examples.rows is None else examples.rows
        losses = np.bincount(rows, answers.astype(np.float64) * weights)
        with np.errstate(over="ignore"):
            found = np.exp(losses / np.bincount(rows, weights)).astype(np.float32)
        return [float(str(number)) for number in found]

    def described(self) -> tuple[str, str]:
        """It goes on with a text."""
        return "the next token", "It goes on with a text, token by token."

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "CausalLanguageModeling | None":
        """Any that has no encoder."""
        if config.is_encoder_decoder:
            return None
        return cls(end_token_id=_end_of(processor))


def _read(source: str, key: str, column: str, table: Table) -> Sequence[Any]:
    """Texts, or conversations where the first row has one."""
    if means_conversation(next(iter(table.columns[column]), None)):
        return read_conversations(source, key, column, table)
    return read_texts(source, key, column, table)


def _is_plain(rows: Rows) -> bool:
    return "label" not in rows.inputs and not is_conversation(rows.inputs["text"][0])


def _end_of(processor: Any) -> int:
    if processor.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {processor.name_or_path!r} has no end token, by which one text is "
            "told from the next. Encoders, such as BERT, have none: give a decoder, such as GPT-2 "
            "or Llama, or a tokenizer with an eos_token"
        )
    return int(processor.eos_token_id)


def _without_end(
    processor: Any, source: str, texts: Sequence[str], special: bool = True
) -> Iterator[list[int]]:
    """Tokens, with the first of a text where the tokenizer gives it one, but without its last."""
    # They are cut afterwards, so the tokenizer need not warn of long ones.
    options = {"add_special_tokens": special, "verbose": False}
    ends = {processor.eos_token_id, processor.sep_token_id} if special else set()
    for _, encoded in encodings(processor, source, (texts,), **options):
        for ids in encoded["input_ids"]:
            yield ids[:-1] if ids and ids[-1] in ends else ids


def _examples(found: Iterable[Asked]) -> Examples:
    inputs, labels = ColumnFile(), ColumnFile()
    given = iter(found)
    while part := list(islice(given, AT_ONCE)):
        inputs.add([ids for ids, _ in part])
        # Nothing comes before the first token.
        labels.add([[NO_ANSWER, *np.where(asked, ids, NO_ANSWER)[1:]] for ids, asked in part])
    return Examples({"input_ids": inputs.column()}, {"labels": labels.column()})
