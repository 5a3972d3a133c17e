"""Summarization: a text for a text, by a model with an encoder and a decoder (BART, T5)."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field as Setting
from torch import Tensor

from afcore.data.column_file import ColumnFile
from afcore.data.examples import Column, Examples
from afcore.data.sources import Field, Rows, read_texts
from afcore.data.stored_values import StoredValues
from afcore.errors import ConfigError, ModelError
from afcore.tasks.scores import TOKEN_LOSS, RowValues, Score, mean_of
from afcore.tasks.task import NO_ANSWER, Targets, Task
from afcore.tasks.tokenizing import check_tokens_of, encodings
from afcore.tasks.tokens import mean_losses, num_answers, token_loss, unigram_entropy

__all__ = ["Summarization", "shifted_right"]

_ROUGES = ("rougeL", "rouge1", "rouge2")
_MANY_UNSEEN = 0.1
"""Share of summaries of which ROUGE sees little, from which that is said."""
_NOT_KEPT = (
    "_from_model_config",
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "transformers_version",
)


def shifted_right(labels: Tensor, start: int, padding: int) -> Tensor:
    """What a decoder reads: the summary so far, before each of its tokens.

    Args:
        labels: [b, t] int64, with :data:`NO_ANSWER` behind a summary's end.
        start: token that the decoder begins with.
        padding: token.
    """
    shifted = labels.roll(1, dims=1)
    shifted[:, 0] = start
    return shifted.masked_fill(shifted == NO_ANSWER, padding)


class Summarization(Task):
    """A text that is shorter, for a text; the model has an encoder and a decoder.

    The boundary lies in the encoder: only its blocks are frozen and cached. Its loss is the mean
    over the tokens of the summaries, its other scores the F1 of ROUGE between 0 and 1, of words
    with their endings cut, of letters a to z and digits alone, over the summary that the model
    generates as its generation settings say (one beam, if they say nothing), within
    ``max_target_length`` tokens. That takes time in each evaluation, and the log says how much;
    with ``training.score: loss`` nothing is generated before the test.

    Attributes:
        decoder_start_token_id: what its decoder begins with.
        generation: settings of the model it was made from.
        max_target_length: see the configuration.
        prefix: the same.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        *(mean_of(name, name, name.replace("rouge", "ROUGE-")) for name in _ROUGES),
        TOKEN_LOSS,
    )
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    pipeline_tag: ClassVar[str] = "summarization"
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    head_reads: ClassVar[Any] = "all"
    columns: ClassVar[Mapping[str, str]] = {"text": "document", "label": "summary"}
    settings: ClassVar[tuple[str, ...]] = ("max_target_length", "prefix")
    head_is_new: ClassVar[bool] = False
    generates: ClassVar[bool] = True

    name: Literal["summarization"] = "summarization"
    decoder_start_token_id: int = 0
    generation: dict[str, Any] = Setting(default_factory=dict)
    max_target_length: int = Setting(
        64, ge=2, description="longest summary, in tokens: cut beyond, and generated at most"
    )
    prefix: str = Setting(
        "", description="put before each text; T5 was trained with `'summarize: '`"
    )

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``text`` and ``label``, both texts.

        Raises:
            ConfigError: for a second text, of which nothing would be read.
        """
        if columns.get("text_pair") is not None:
            raise ConfigError("data.text_pair: task summarization reads no second text")
        found = [Field("text", str(columns["text"]), read_texts)]
        if (label := columns.get("label")) is not None:
            found.append(Field("label", label, read_texts, is_target=True))
        return found

    @classmethod
    def learn(cls, splits: Mapping[str, Rows], everything: Rows, processor: Any) -> "Summarization":
        """Nothing that the rows say."""
        return cls()

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``input_ids``; ``labels``, the summary's tokens; and its text for reference."""
        texts = StoredValues(self.prefix + text for text in rows.inputs["text"])
        inputs = {"input_ids": _tokens(processor, texts, max_length, rows)}
        if "label" not in rows.targets:
            return Examples(inputs)
        summaries = rows.targets["label"]
        labels = _tokens(processor, summaries, self.max_target_length, rows, target=True)
        return Examples(
            inputs,
            {"labels": labels},
            references={"summary": _bytes_of(summaries)},
        )

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """Of summaries in whose letters ROUGE sees nothing."""
        if score.name not in _ROUGES:
            return []
        texts = validation.references["summary"].texts()
        unseen = sum(map(_is_unseen, texts))
        if unseen < _MANY_UNSEEN * len(texts):
            return []
        return [
            f"ROUGE counts letters a to z and digits alone, and {unseen} of {len(texts)} "
            f"validation summaries are mostly of others: their {score.title}, which chooses the "
            "epoch, is about 0 whatever the model writes. Set training.score to loss"
        ]

    @property
    def head_settings(self) -> dict[str, Any]:
        """The model's own."""
        return {}

    def fitted(self, model: Any) -> Self:
        """Knows the decoder's first token and how the model generates.

        Raises:
            ConfigError: for summaries longer than the decoder has positions for.
            ModelError: for a decoder that begins otherwise.
        """
        name, config, own = type(model).__name__, model.config, model.generation_config
        start = config.decoder_start_token_id
        if start is None:
            raise ModelError(f"{name}: config.json names no decoder_start_token_id; write it there")
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and self.max_target_length > positions:
            raise ConfigError(
                f"task_settings.max_target_length is {self.max_target_length}, but the decoder "
                f"has positions for {positions} tokens only. Set it to {positions} or less"
            )
        labels = torch.tensor([[5, 6, 3, NO_ANSWER], [7, 6, 5, 3]])
        given = model.prepare_decoder_input_ids_from_labels(labels=labels)
        if not torch.equal(given, shifted_right(labels, start, self.pad_token_id)):
            raise ModelError(
                f"{name} makes what its decoder reads otherwise than by moving the summary one "
                "token to the right; such models cannot be trained here. Give BART, T5 or the like"
            )
        kept = {k: v for k, v in own.to_diff_dict().items() if k not in _NOT_KEPT}
        return self.model_copy(update={"decoder_start_token_id": start, "generation": kept})

    def configure(self, model: Any) -> None:
        """Generates as the model that it was made from, within the longest summary."""
        from transformers import GenerationConfig

        known = {"pad_token_id": self.pad_token_id, "eos_token_id": model.config.eos_token_id}
        given = known | {
            **self.generation,
            "decoder_start_token_id": self.decoder_start_token_id,
            "max_new_tokens": self.max_target_length,
        }
        shortest = given.get("min_length")
        if shortest:
            given["min_length"] = min(shortest, self.max_target_length)
        model.generation_config = GenerationConfig(**given)

    def collate(
        self, examples: Examples, ids: npt.NDArray[np.int64], device: torch.device
    ) -> tuple[dict[str, Tensor], Targets]:
        """With ``decoder_input_ids``, [b, t]; without targets, the first token alone."""
        batch, targets = super().collate(examples, ids, device)
        start, padding = self.decoder_start_token_id, self.pad_token_id
        if "labels" in targets:
            batch["decoder_input_ids"] = shifted_right(targets["labels"], start, padding)
        else:
            batch["decoder_input_ids"] = torch.full((len(ids), 1), start, device=device)
        return batch, targets

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], mean over a summary's tokens of the log loss, in nats, of [b, t, v] logits."""
        return mean_losses(outputs, targets["labels"])

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """The mean over all tokens, as Transformers'."""
        return token_loss(outputs, targets["labels"])

    def weights(self, examples: Examples) -> npt.NDArray[np.int64] | None:
        """[n], tokens of each summary."""
        return num_answers(examples.targets["labels"]) if examples.targets else None

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the shares of the tokens: their entropy, in nats."""
        return unigram_entropy(examples.targets["labels"])

    def answers(self, outputs: Tensor, inputs: dict[str, Tensor], model: Any) -> Tensor:
        """[b, t] int64, the summary that the model generates."""
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        generated: Tensor = model.generate(**given, use_cache=True)
        return generated

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """F1 of each ROUGE, [n] float32."""
        from rouge_score.rouge_scorer import RougeScorer

        logging.getLogger("absl").setLevel(logging.WARNING)  # it names its tokenizer each time
        scorer = RougeScorer(list(_ROUGES), use_stemmer=True)
        wanted, found = examples.references["summary"].texts(), self.predictions(examples, answers)
        scored = [scorer.score(*pair) for pair in zip(wanted, found, strict=True)]
        return {
            name: np.asarray([one[name].fmeasure for one in scored], dtype=np.float32)
            for name in _ROUGES
        }

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[str]:
        """The summary."""
        tokens = np.where(answers == NO_ANSWER, self.pad_token_id, answers)
        found = self.reader.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in found]

    def described(self) -> tuple[str, str]:
        """It writes."""
        return (
            "a summary for each",
            f"It writes a summary of at most {self.max_target_length} tokens"
            + (f"; each text begins with {self.prefix!r}." if self.prefix else "."),
        )

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "Summarization | None":
        """Any that has an encoder and a decoder."""
        if not config.is_encoder_decoder:
            return None
        return cls()


def _tokens(
    processor: Any, texts: Sequence[str], max_length: int, rows: Rows, *, target: bool = False
) -> Column:
    tokenize = partial(_as_target, processor) if target else processor
    found = ColumnFile()
    options = {"truncation": True, "max_length": max_length}
    for start, encoded in encodings(tokenize, rows.source, (texts,), **options):
        check_tokens_of(rows, start, encoded["input_ids"], "summary" if target else "text")
        found.add(encoded["input_ids"])
    return found.column()


def _is_unseen(text: str) -> bool:
    """Whether most of its letters and digits are none that ROUGE counts."""
    counted = [character.isascii() for character in text if character.isalnum()]
    return 2 * sum(counted) < len(counted)


def _bytes_of(texts: Sequence[str]) -> Column:
    """As :meth:`.Column.of_texts` has them."""
    found = ColumnFile(np.uint8)
    for text in texts:
        found.add([list(text.encode())])
    return found.column()


def _as_target(processor: Any, texts: list[str], **options: Any) -> Any:
    return processor(text_target=texts, **options)
