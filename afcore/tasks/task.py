"""What a task is: from rows to examples, the loss, the scores, and what a prediction is.

A task is a class in a file of its own and a line in :mod:`afcore.tasks.known_tasks`. Its instance
is what the training data taught it (the names of the labels, say), and is recorded with the run.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, PrivateAttr, create_model
from torch import Tensor

from afcore.data.examples import Examples, padded
from afcore.data.sources import Field, Rows
from afcore.errors import ConfigError
from afcore.tasks.scores import RowValues, Score
from afcore.yaml_files import parse

__all__ = ["NO_ANSWER", "Processor", "Targets", "Task"]

Targets = dict[str, Tensor]
"""What a batch should be answered with, by name, each [b, ...]."""
Reads = Literal["one", "all"]
Processor = Literal["tokenizer", "image_processor"]
NO_ANSWER = -100
"""Fills targets and answers of an example that has fewer of them than others; Transformers' losses
leave it out."""


class Task(BaseModel, ABC):
    """A task; see the page "add a task" in CONTRIBUTING.md.

    Attributes:
        name: in the configuration.
        pad_token_id: of the tokenizer, if there is one; fills ``input_ids`` of a batch. Set
            by :meth:`padded_by` once the task is made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: ClassVar[tuple[Score, ...]]
    """Of a split; the first is the main one unless ``training.score`` names another."""
    head_reads: ClassVar[Reads] = "one"
    """Whether the head reads the last block's output at ``one`` position of each example, which may
    then be the only one that is computed there, or at ``all``."""
    processor: ClassVar[Processor] = "tokenizer"
    """What makes a model's inputs of rows."""
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    """Class of ``transformers`` that makes the model with its head."""
    pipeline_tag: ClassVar[str] = "text-classification"
    """The hub's name for such models."""
    pipeline_options: ClassVar[Mapping[str, Any]] = {"truncation": True}
    """What a pipeline of Transformers is loaded with, to answer as the test did."""

    columns: ClassVar[Mapping[str, str]] = {"text": "text", "label": "label"}
    """Keys of ``data`` that name a column, with the name that each has unless it is given."""
    settings: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that ``task_settings`` of the configuration may set."""
    head_is_new: ClassVar[bool] = True
    """Whether the head is drawn for the task; else it is pre-trained with the model."""
    generates: ClassVar[bool] = False
    """Whether :meth:`answers` asks the model word by word, which takes much longer than a loss."""

    augmentations: ClassVar[tuple[str, ...]] = ()
    """Of ``training.augmentation``, what :meth:`augmented` knows."""

    name: str
    pad_token_id: int = 0
    _load_reader: Callable[[], Any] | None = PrivateAttr(None)
    _reader: Any = PrivateAttr(None)

    # From rows to examples.

    @classmethod
    @abstractmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """What is read of a data set.

        Args:
            columns: names of columns, by the keys of ``data``, see :meth:`named_columns`.
        """

    @classmethod
    def named_columns(cls, given: Mapping[str, str | None]) -> dict[str, str | None]:
        """Those that are given, and the task's own names of the others."""
        names = {key: name for key, name in given.items() if name is not None}
        return {**dict.fromkeys(given), **cls.columns, **names}

    @classmethod
    @abstractmethod
    def learn(cls, splits: Mapping[str, Rows], everything: Rows, processor: Any) -> "Task":
        """What the training data say of the task; the place for refusing them.

        Args:
            splits: rows of ``train``, ``validation`` and perhaps ``test``.
            everything: of the training set, the rows held out for validation among them.
            processor: of the model: its tokenizer.

        Raises:
            DataError: for rows that cannot be learned from, or tested on.
        """

    def padded_by(self, processor: Any) -> Self:
        """The task with the padding of the model's tokenizer, if that is what makes its inputs.

        Args:
            processor: of the model.
        """
        if self.processor != "tokenizer":
            return self
        return self.model_copy(update={"pad_token_id": processor.pad_token_id})

    @property
    def group_size(self) -> int:
        """Examples that are answered together, as the choices of a question; they lie side by side.

        Batches are of whole groups. ``losses`` and ``answers`` are of each example nevertheless.
        """
        return 1

    def num_groups(self, examples: Examples) -> int:
        """That ``training.batch_size`` counts: the examples, where each is answered by itself."""
        return len(examples) // self.group_size

    def as_whole(
        self, inputs: dict[str, Tensor], targets: Targets
    ) -> tuple[dict[str, Tensor], Targets]:
        """Both as the model's own ``forward`` takes them, to give its own loss."""
        return inputs, targets

    @classmethod
    def check_settings(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``task_settings``, each as its field wants it.

        Raises:
            ConfigError: for one that the task does not have, or a value that is not allowed.
        """
        fields: dict[str, Any] = {
            name: (cls.model_fields[name].annotation, cls.model_fields[name])
            for name in cls.settings
        }
        name = cls.model_fields["name"].default
        if not fields and given:
            raise ConfigError(f"task_settings: task {name} has none; got {', '.join(given)}")
        section = create_model("Settings", __config__=ConfigDict(extra="forbid"), **fields)
        whole = create_model("Whole", task_settings=(section, ...))
        found = parse(whole, {"task_settings": dict(given)}, f"task {name}").model_dump()
        return {key: value for key, value in found["task_settings"].items() if key in given}

    def with_settings(self, given: Mapping[str, Any]) -> Self:
        """The task with what the user set of it."""
        return self.model_copy(update=self.check_settings(given))

    def bound_to(self, load_reader: Callable[[], Any]) -> Self:
        """The task with the model's tokenizer at hand, loaded when it is first asked for."""
        bound = self.model_copy()
        bound._load_reader, bound._reader = load_reader, None
        return bound

    @property
    def reader(self) -> Any:
        """The model's tokenizer, by which answers that are tokens are read."""
        if self._reader is None:
            assert self._load_reader is not None, "the task is bound to no tokenizer"
            self._reader = self._load_reader()
        return self._reader

    @abstractmethod
    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """Tokenize.

        Args:
            processor: of the model: its tokenizer.
            rows: of a split; without targets, where they are only to be predicted.
            max_length: tokens of an example at most.

        Raises:
            DataError: for a row that cannot be an example.
        """

    def training_examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """The same of the training split, where it is made of other pieces than are scored."""
        return self.examples(processor, rows, max_length)

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """What makes it doubtful to choose an epoch by ``score`` on these examples."""
        return []

    def unknown_labels(self, labels: Sequence[Any]) -> list[str]:
        """Those among the rows' labels that the model cannot answer.

        Rows to be predicted may have such: their targets are such that no answer scores as right.
        """
        return []

    # The model.

    @property
    @abstractmethod
    def head_settings(self) -> dict[str, Any]:
        """Of the model's configuration: ``num_labels``, ``problem_type``, and so on."""

    @property
    def num_outputs(self) -> int:
        """Numbers that the last layer puts out at a position; 0: as many as the model says."""
        return int(self.head_settings.get("num_labels", 0))

    @classmethod
    def has_pipeline(cls) -> bool:
        """Whether this release of Transformers has a pipeline for such models."""
        from transformers.pipelines import SUPPORTED_TASKS

        return cls.pipeline_tag in SUPPORTED_TASKS

    def fitted(self, model: Any) -> Self:
        """The task with what it has to know of the model (the first token of a decoder, say).

        Args:
            model: pre-trained, or of this task.

        Raises:
            UserError: when the model cannot learn it.
        """
        return self

    def configure(self, model: Any) -> None:
        """Set what a model does not keep in its configuration: how it generates, say."""

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
            name: padded(column, ids, NO_ANSWER, device)[0]
            for name, column in examples.targets.items()
        }
        return batch, targets

    def augmented(self, inputs: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
        """Inputs of a batch to train on, changed at random by torch's own generator of the CPU.

        Args:
            inputs: [b, ...] each.
            kind: one of :attr:`augmentations`.
        """
        raise NotImplementedError

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], the loss of each example, from [b, ...] outputs of the head."""

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """The mean of :meth:`losses`, weighted by :meth:`weights`, which is trained."""
        return self.losses(outputs, targets).mean()

    def weights(self, examples: Examples) -> npt.NDArray[np.int64] | None:
        """[n], what each example weighs in the loss of a batch: of tokens, how many it has.

        None: all the same. With it, scores are computed from ``weights`` beside ``losses``.
        """
        return None

    def answered_alone(self, targets: Targets) -> Tensor | None:
        """[b, s] bool, positions that are each an answer of its own, as words are.

        The head is then solved on these as on examples: :meth:`loss` is given [m, c] outputs, and
        targets of [m]. None: an example is one answer.
        """
        return None

    @property
    def curvature(self) -> float:
        """Largest second derivative of an example's loss by an output: of a softmax, 1/4."""
        return 0.25

    @abstractmethod
    def chance_loss(self, examples: Examples) -> float:
        """The lowest mean loss of answers that do not look at the example."""

    def answers(self, outputs: Tensor, inputs: dict[str, Tensor], model: Any) -> Tensor:
        """[b, ...], what is kept of each example: scores and predictions come from it alone.

        The outputs, unless a task needs less of them (the best word at each position), or other
        (a text that the model generates). Where batches differ in their last sizes, the shorter
        are filled with :data:`NO_ANSWER`.

        Args:
            outputs: [b, ...] of the head.
            inputs: of the batch, and its targets where it has some.
            model: the whole one, in eval mode.
        """
        return outputs

    @classmethod
    def is_asked(cls, score: Score | None) -> bool:
        """Whether :meth:`answers` are needed for a score; None: for all of them."""
        wanted = (score,) if cls.generates and score is not None else cls.scores
        return any(not {*one.rows} <= {"losses", "weights"} for one in wanted)

    @abstractmethod
    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """What scores are computed from, beside ``losses`` and ``weights``; each [n, ...].

        Args:
            examples: of a split, with their targets.
            answers: [n, ...], :meth:`answers` of each.
        """

    # Predictions.

    @abstractmethod
    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[Any]:
        """Of each row, what is written into the column ``prediction``.

        Args:
            examples: without targets.
            answers: [n, ...], :meth:`answers` of each.
        """

    def probabilities(self, answers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
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
    def of_model(cls, name: str, config: Any, processor: Any, *, ours: bool) -> "Task | None":
        """The task of a trained model by its configuration; None: a model of another task.

        Not asked of a model that was trained here: its task is in its settings. A task whose head
        is that of another one gives None.

        Args:
            name: of the model, as the user gave it.
            config: of the model.
            processor: of the model: its tokenizer.
            ours: it was trained here.

        Raises:
            ModelError: when it is one of this task, and its labels have no names.
        """
