"""What a task is: from rows to examples, the loss, the scores, and what a prediction is.

A task is a class in a file of its own and a line in :mod:`afcore.tasks.known_tasks`. Its instance
is what the training data taught it (the names of the labels, say), and is recorded with the run.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from afcore.data.examples import Examples, padded
from afcore.data.sources import Field, Rows
from afcore.tasks.scores import RowValues, Score

__all__ = ["Targets", "Task"]

Targets = dict[str, Tensor]
"""What a batch should be answered with, by name, each [b, ...]."""
Reads = Literal["one", "all"]


class Task(BaseModel, ABC):
    """A task; see the page "add a task" in CONTRIBUTING.md.

    Attributes:
        name: in the configuration.
        pad_token_id: of the tokenizer; fills ``input_ids`` of a batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: ClassVar[tuple[Score, ...]]
    """Of a split; the first is the main one unless ``training.score`` names another."""
    head_reads: ClassVar[Reads] = "one"
    """Whether the head reads the last block's output at ``one`` position of each example, which may
    then be the only one that is computed there, or at ``all``."""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    """Class of ``transformers`` that makes the model with its head."""
    pipeline_tag: ClassVar[str] = "text-classification"
    """The hub's name for such models."""

    name: str
    pad_token_id: int

    # From rows to examples.

    @classmethod
    @abstractmethod
    def fields(cls, columns: Mapping[str, str | None], *, labelled: bool = True) -> list[Field]:
        """What is read of a data set.

        Args:
            columns: names of columns, by the keys of ``data``; None where there is none.
            labelled: with what the model should answer.
        """

    @classmethod
    @abstractmethod
    def learn(cls, splits: Mapping[str, Rows], everything: Rows, pad_token_id: int) -> "Task":
        """What the training data say of the task; the place for refusing them.

        Args:
            splits: rows of ``train``, ``validation`` and perhaps ``test``.
            everything: of the training set, the rows held out for validation among them.
            pad_token_id: of the tokenizer.

        Raises:
            DataError: for rows that cannot be learned from, or tested on.
        """

    @abstractmethod
    def examples(self, tokenizer: Any, rows: Rows, max_length: int) -> Examples:
        """Tokenize.

        Args:
            tokenizer: of the model.
            rows: of a split; without labels, where they are only to be predicted.
            max_length: tokens of an example at most.

        Raises:
            DataError: for a row that cannot be an example.
        """

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """What makes it doubtful to choose an epoch by ``score`` on these examples."""
        return []

    @abstractmethod
    def encode_labels(self, labels: list[Any]) -> Any:
        """[n, ...], the target ``labels``, from the rows' own.

        Rows to be predicted may have some that the model cannot answer, see
        :meth:`unknown_labels`: their targets are such that no answer scores as right.
        """

    def unknown_labels(self, labels: list[Any]) -> list[str]:
        """Those among the rows' labels that the model cannot answer."""
        return []

    # The model.

    @property
    @abstractmethod
    def head_settings(self) -> dict[str, Any]:
        """Of the model's configuration: ``num_labels``, ``problem_type``, and so on."""

    @property
    def num_outputs(self) -> int:
        """Numbers that the head puts out for an example."""
        return int(self.head_settings["num_labels"])

    # A batch, and how it is answered.

    def collate(
        self, examples: Examples, ids: npt.NDArray[np.int64], device: torch.device
    ) -> tuple[dict[str, Tensor], Targets]:
        """Some examples as the model takes them, each padded on the right to the longest.

        Args:
            examples: the split.
            ids: [b] example ids.
            device: where the tensors go.

        Returns:
            (inputs, targets): inputs are [b, s] int64, ``attention_mask`` among them.
        """
        batch: dict[str, Tensor] = {}
        for name, column in examples.inputs.items():
            fill = self.pad_token_id if name == "input_ids" else 0
            batch[name], mask = padded(column, ids, fill, device)
            if mask is not None:
                batch.setdefault("attention_mask", mask)
        targets = {
            name: padded(column, ids, -100, device)[0] for name, column in examples.targets.items()
        }
        return batch, targets

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], the loss of each example, from [b, ...] outputs of the head."""

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """The mean of :meth:`losses`, which is trained."""
        return self.losses(outputs, targets).mean()

    @property
    def curvature(self) -> float:
        """Largest second derivative of an example's loss by an output: of a softmax, 1/4."""
        return 0.25

    @abstractmethod
    def chance_loss(self, examples: Examples) -> float:
        """The lowest mean loss of answers that do not look at the example."""

    @abstractmethod
    def answer(self, outputs: Tensor) -> Tensor:
        """[b, ...], the answer to each example: a class, a number, ..."""

    def row_values(self, targets: RowValues, predicted: npt.NDArray[Any]) -> RowValues:
        """What scores are computed from, beside ``losses``; each [n, ...].

        Args:
            targets: by name, what should have been answered.
            predicted: [n, ...], :meth:`answer` of each example.
        """
        return {**targets, "predicted": predicted}

    # Predictions.

    @abstractmethod
    def prediction(self, outputs: npt.NDArray[np.float32]) -> list[Any]:
        """Of each row of [n, c] outputs, what is written into the column ``prediction``."""

    def probabilities(self, outputs: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Further columns, by what follows ``probability_`` in their names; none by default."""
        return {}

    @abstractmethod
    def described(self) -> tuple[str, str]:
        """(a title, a sentence) for the card of a model of this task."""

    @property
    def class_names(self) -> list[str] | None:
        """One a class, where each example has just one; then a test is shown class by class.

        ``labels`` and ``predicted`` of :meth:`row_values` are then [n] indices into them.
        """
        return None

    @classmethod
    @abstractmethod
    def of_model(cls, name: str, config: Any, pad_token_id: int, *, ours: bool) -> "Task | None":
        """The task of a trained model by its configuration; None: a model of another task.

        Not asked of a model that was trained here: its task is in its settings. A task whose head
        is that of another one gives None.

        Args:
            name: of the model, as the user gave it.
            config: of the model.
            pad_token_id: of its tokenizer.
            ours: it was trained here.

        Raises:
            ModelError: when it is one of this task, and its labels have no names.
        """
