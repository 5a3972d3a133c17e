"""Hugging Face's own ``Trainer``, set up to do what every other mode does.

The same weights, head, tokens, epochs, batch size, AdamW, schedule, clipping and precision. The
Trainer's own are the loop, the order of the examples, padding to a batch's longest example,
evaluation, and when it stops early. It is spared what costs time and changes nothing: progress
bars, logging of single steps, files of checkpoints. The best epoch's weights are kept in memory.

Importing this takes seconds, because the Trainer imports much.
"""

import logging
import math
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from afcore.compute import Compute
from afcore.config import TrainingConfig
from afcore.data.examples import Examples
from afcore.data.order import of_groups
from afcore.errors import AutoFreezeError
from afcore.model.adapters import LoraSettings
from afcore.model.forwards import logits_of
from afcore.peer.lora import add_lora, merge_lora
from afcore.results.report import EpochReport
from afcore.runs.batches import training_schedule
from afcore.runs.records import best_epoch
from afcore.tasks.answers import Answers
from afcore.tasks.scores import LOG_LOSS, Score
from afcore.tasks.stored_tokens import PreparedData
from afcore.tasks.task import Task

__all__ = ["Fitted", "Recipe", "fit"]

_IDS = "example_ids"
_PROGRESS_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What people set differently at a Trainer.

    Attributes:
        sampling: ``train_sampling_strategy``: ``random`` or ``group_by_length``.
        early_stopping_patience: stop after so many epochs without a lower validation loss, which is
            what the Trainer looks at unless told otherwise, or a better score, where the main one
            stops trainings; None trains all epochs. The learning rate falls as if all were trained.
        lora: train low-rank additions and the head instead of all weights.
    """

    sampling: str = "random"
    early_stopping_patience: int | None = None
    lora: LoraSettings | None = None


@dataclass
class Fitted:
    """What a Trainer gives.

    Attributes:
        epochs: one report each; their costs and the attempt are left to the caller.
        test: answers of the best epoch's weights; None without a test split.
        test_seconds: taken by that.
        model: with the best epoch's weights, LoRA's merged into them.
    """

    epochs: list[EpochReport]
    test: Answers | None
    test_seconds: float
    model: Any


def fit(
    model: Any,
    processor: Any,
    data: PreparedData,
    *,
    training: TrainingConfig,
    score: Score,
    compute: Compute,
    recipe: Recipe,
) -> Fitted:
    """Train, evaluate after each epoch, and test the best one.

    Args:
        model: with its new head; changed in place.
        processor: of the model, which the Trainer knows it by; nothing is tokenized again.
        data: all splits.
        training: the settings that all modes share.
        score: the main one.
        compute: device and precision.
        recipe: the Trainer's own.

    Raises:
        AutoFreezeError: when training diverged.
        ConfigError: for LoRA without PEFT.
    """
    if recipe.lora is not None:
        model = add_lora(model, recipe.lora, training.seed)
    schedule = training_schedule(training, data.task.num_groups(data.train))
    watch = _Watch(compute, training.num_epochs, schedule.steps_per_epoch, score, data.task)
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        arguments = _arguments(training, score, compute, recipe, folder)
        if "input_ids" not in data.train.inputs:
            arguments.train_sampling_strategy = "random"  # all are of one length
        examples = _Features(data.train, data.task.group_size, training.augmentation)
        trainer = _make_trainer(model, processor, data, examples, arguments, watch)
        if recipe.early_stopping_patience is not None:
            trainer.add_callback(EarlyStoppingCallback(recipe.early_stopping_patience))
        # Given before training, the Trainer uses it: its own schedules know no steps, and warm up
        # from a learning rate of 0.
        trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            trainer.create_optimizer(), schedule.factor
        )
        trainer.train()
        trainer.remove_callback(watch)
        model.load_state_dict(watch.best_weights)
        clock = time.perf_counter()
        test = None
        if data.test is not None:
            trainer.compute_metrics, trainer.is_asked = None, True
            given = trainer.predict(_Features(data.test, data.task.group_size))
            test = _answers(data.task, data.test, given.predictions, given.label_ids)
        test_seconds = time.perf_counter() - clock
    # The Trainer put autocast around the model's forward; this gives the class's own back.
    for name in ("forward", "_original_forward"):
        model.__dict__.pop(name, None)
    if recipe.lora is not None:
        model = merge_lora(model)
    return Fitted(watch.reports, test, test_seconds, model)


def _arguments(
    training: TrainingConfig, score: Score, compute: Compute, recipe: Recipe, folder: str
) -> TrainingArguments:
    # The Trainer's own default, the loss, where the score has no say in stopping.
    main = score if score.stops else LOG_LOSS
    arguments = TrainingArguments(
        output_dir=folder,  # asked for; nothing is written there
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        activation_checkpointing=training.gradient_checkpointing,
        seed=training.seed,
        bf16=compute.precision == "bf16",
        use_cpu=compute.device.type == "cpu",
        train_sampling_strategy=recipe.sampling,
        eval_strategy="epoch",
        metric_for_best_model=main.name,  # what early stopping looks at
        greater_is_better=main.higher_is_better,
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # the number of an example goes with it
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one device, as the other modes; it would take them all
    return arguments


def _make_trainer(
    model: Any,
    processor: Any,
    data: PreparedData,
    examples: "_Features",
    arguments: TrainingArguments,
    watch: "_Watch",
) -> "_TaskTrainer":
    is_asked = data.task.is_asked(watch.score)
    trainer = _TaskTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        eval_dataset=_Features(data.validation, data.task.group_size),
        data_collator=partial(_collate, task=data.task),
        processing_class=processor,
        compute_metrics=partial(
            _scores, task=data.task, examples=data.validation, is_asked=is_asked
        ),
        callbacks=[watch],
        task=data.task,
        is_asked=is_asked,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Features(Dataset[dict[str, Any]]):
    """Examples by their numbers; of a text the tokens too, by which the Trainer groups."""

    def __init__(
        self, examples: Examples, group_size: int, augmentation: str | None = None
    ) -> None:
        self.examples = examples
        self.group_size = group_size
        self.augmentation = augmentation
        self._tokens = examples.inputs.get("input_ids")

    def __len__(self) -> int:
        return len(self.examples) // self.group_size

    def __getitem__(self, index: int) -> dict[str, Any]:
        # Who iterates without a sampler stops at an IndexError.
        item: dict[str, Any] = {"split": self, "id": range(len(self))[index]}
        if self._tokens is not None and self._tokens.offsets is not None:
            first = index * self.group_size
            start, end = self._tokens.offsets[[first, first + self.group_size]]
            item["input_ids"] = self._tokens.values[start:end]
        return item


def _collate(items: list[dict[str, Any]], task: Task) -> dict[str, Any]:
    """Pads to a batch's longest example, as the Trainer's own collator of texts."""
    split: _Features = items[0]["split"]
    ids = of_groups(np.asarray([item["id"] for item in items]), split.group_size)
    inputs, targets = task.collate(split.examples, ids, torch.device("cpu"))
    if split.augmentation is not None:
        inputs = task.augmented(inputs, split.augmentation)
    return {**inputs, **targets, _IDS: torch.from_numpy(ids)}


class _TaskTrainer(Trainer):
    """The Trainer, whose evaluation keeps of an example what its task wants, not all logits.

    Attributes:
        is_asked: whether answers are wanted, beside losses.
    """

    def __init__(self, *args: Any, task: Task, is_asked: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._task = task
        self.is_asked = is_asked

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's own loss, without the numbers of the examples."""
        inputs, targets = self._task.as_whole(*self._parted(inputs))
        return super().compute_loss(model, {**inputs, **targets}, *args, **kwargs)

    def _parted(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """(inputs, targets) of a batch."""
        names = set(self.train_dataset.examples.targets)  # type: ignore[union-attr]
        targets = {name: value for name, value in inputs.items() if name in names}
        return {n: v for n, v in inputs.items() if n not in {_IDS, *names}}, targets

    def prediction_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """(None, (answers, losses), ids) of a batch: the mean is the task's, which may weigh."""
        inputs = self._prepare_inputs(inputs)
        batch, targets = self._parted(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = logits_of(model(**self._task.as_whole(batch, targets)[0])).float()
            losses = self._task.losses(outputs, targets)
            answers = losses
            if self.is_asked:
                answers = self._task.answers(outputs, {**batch, **targets}, model)
        found: tuple[Any, ...] = (answers, losses, inputs[_IDS])
        if self._task.group_size > 1:  # accelerate counts the rows of what it gets
            found = tuple(v.view(-1, self._task.group_size, *v.shape[1:]) for v in found)
        return None, found[:2], found[2]


def _answers(
    task: Task, examples: Examples, found: Any, ids: Any, is_asked: bool = True
) -> Answers:
    """In the order of the examples; the Trainer's is by length where it groups."""
    answers, losses, ids = (np.asarray(values) for values in (*found, ids))
    if task.group_size > 1:
        answers, losses, ids = (v.reshape(-1, *v.shape[2:]) for v in (answers, losses, ids))
    order = np.argsort(ids)
    return Answers.of(task, examples, answers[order] if is_asked else None, losses[order])


class _Watch(TrainerCallback):
    """Reads the clock around every epoch, shows progress, and keeps the best weights.

    Attributes:
        reports: one an epoch, costs and attempt left out.
        best_weights: of the best epoch, as :func:`afcore.runs.records.best_epoch` chooses it.
        score: the main one.
    """

    def __init__(
        self, compute: Compute, num_epochs: int, steps_per_epoch: int, score: Score, task: Task
    ) -> None:
        self.reports: list[EpochReport] = []
        self.best_weights: dict[str, torch.Tensor] = {}
        self._compute = compute
        self._num_epochs = num_epochs
        self._steps_per_epoch = steps_per_epoch
        self.score = score
        self._names = {score.name for score in task.scores}
        self._clock = self._shown = 0.0
        self._train_seconds = 0.0
        self._train_loss = math.nan
        self._first_step = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Training begins."""
        self._first_step = state.global_step
        self._clock = self._shown = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say how far it is, now and then."""
        now = time.perf_counter()
        # Of the last epoch there may be a part alone.
        num_steps = min(self._steps_per_epoch, state.max_steps - self._first_step)
        number = state.global_step - self._first_step
        if now - self._shown > _PROGRESS_SECONDS or number == num_steps:
            self._shown = now
            _log.info(
                "epoch %d/%d  step %d/%d  %.0f s left",
                *(len(self.reports) + 1, self._num_epochs, number, num_steps),
                (now - self._clock) / number * (num_steps - number),
            )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Training ends; what follows is logging and evaluation."""
        self._train_seconds = self._lap()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The mean loss, once an epoch."""
        self._train_loss = given["logs"].get("loss", self._train_loss)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Note the epoch, and keep the weights when none were better."""
        evaluate_seconds, main = self._lap(), self.score
        validation = {
            name.removeprefix("eval_"): value
            for name, value in given["metrics"].items()
            if name.removeprefix("eval_") in self._names
        }
        report = EpochReport(
            epoch=len(self.reports) + 1,
            num_steps=state.global_step - self._first_step,
            boundary_start=0,
            boundary_end=0,
            read_from="tokens",
            train_seconds=self._train_seconds,
            prefix_seconds=0.0,
            suffix_seconds=self._train_seconds,
            read_seconds=0.0,
            checkpoint_seconds=0.0,
            materialize_seconds=0.0,
            evaluate_seconds=evaluate_seconds,
            train_loss=self._train_loss,
            validation=validation,
            activation_bytes_written=0,
            activation_bytes_read=0,
            store_bytes_read=0,
            cost_usd=0.0,
            resumed=False,
            attempt=1,
        )
        if best_epoch([*self.reports, report], self.score) is report:
            weights = given["model"].state_dict()
            self.best_weights = {name: value.detach().clone() for name, value in weights.items()}
        ended = {"checkpoint_seconds": self._lap(), "finished": time.time()}
        self.reports.append(report.model_copy(update=ended))
        _log.info(
            "epoch %d/%d done: trained %.1f s, evaluated %.1f s; validation %s %s",
            *(report.epoch, self._num_epochs, report.train_seconds, evaluate_seconds),
            *(main.title, main.shown(validation[main.name])),
        )

    def _lap(self) -> float:
        """Seconds since the clock was last read."""
        self._compute.synchronize()
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before


def _scores(
    prediction: EvalPrediction, task: Task, examples: Examples, is_asked: bool
) -> dict[str, float]:
    """The scores of every other mode.

    Raises:
        AutoFreezeError: when the model puts out what is no number.
    """
    answers = _answers(task, examples, prediction.predictions, prediction.label_ids, is_asked)
    if not np.isfinite(answers.values["losses"]).all():
        raise AutoFreezeError(
            "the losses are not finite: training diverged. Lower training.learning_rate, or set "
            "training.precision to fp32."
        )
    return answers.scores()
