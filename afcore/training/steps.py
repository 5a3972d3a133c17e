"""The steps of an epoch: batches in, gradients out; their losses on the way to the log.

The prefix runs in eval mode under ``no_grad`` (not ``inference_mode``: its outputs enter a
backward pass), or its outputs come from the feed; the suffix runs forward and backward. Each worker
does so with its share of every batch.
"""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.codec import round_block, round_boundary
from afcore.activations.feed import HiddenFeed
from afcore.distributed import WorkerGroup
from afcore.errors import AutoFreezeError
from afcore.model.compile import Backend, SuffixCompiler
from afcore.model.forwards import without_padding
from afcore.model.split_model import Batch, Hidden
from afcore.tasks.task import Targets
from afcore.trainee import Trainee
from afcore.training.data_parallel import Suffix
from afcore.training.stopwatch import Stopwatch
from afcore.training.trained import StepLog, TrainedEpoch, TrainingState

__all__ = ["Losses", "StepSettings", "Steps", "diverged"]


@dataclass(frozen=True)
class StepSettings:
    """How a step is made.

    Attributes:
        seed: of the training; a step's dropout depends on it, the step and the worker alone.
        max_grad_norm: clipping; 0 for none.
        micro_batch: most examples of a worker in one backward pass; None for no limit.
        augmentation: of what is trained on, see :meth:`afcore.tasks.task.Task.augmented`.
        checkpoints: blocks keep what goes into them and are computed again on the way back.
        compile_backend: of ``torch.compile`` for the suffix; None runs it eagerly.
    """

    seed: int = 0
    max_grad_norm: float = 1.0
    micro_batch: int | None = None
    augmentation: str | None = None
    checkpoints: bool = False
    compile_backend: Backend | None = None


_LAPS = ("read", "prefix", "suffix")


class Steps:
    """Batches in, gradients out: everything of a step but what is done with its gradients."""

    def __init__(
        self,
        trainee: Trainee,
        state: TrainingState,
        batches: list[npt.NDArray[np.int64]],
        settings: StepSettings,
        feed: HiddenFeed | None,
        done: TrainedEpoch,
    ) -> None:
        self.done = done
        self.batches = batches
        self._trainee = trainee
        self._state = state
        self._split, self._group, self._compute = trainee.split, trainee.group, trainee.compute
        self._feed = feed
        self._micro_batch = settings.micro_batch
        self._augmentation = settings.augmentation
        self._seed = settings.seed
        self._group_size = trainee.task.group_size
        self._weights = trainee.task.weights(trainee.examples)
        self._split.checkpoint_blocks(settings.checkpoints)
        self._split.set_training(state.freeze.boundary)
        self._compiler = SuffixCompiler(self._split, settings.compile_backend)
        self._compiler.compile(state.freeze.boundary)
        self._suffix = Suffix(self._split, self._group)
        self._suffix.wrap()
        self.watch = Stopwatch(self._compute.device)

    def shares(self) -> Iterator[tuple[int, npt.NDArray[np.int64], Hidden | None]]:
        """For each batch to come: its number from 1, its ids, the share's hidden states if fed."""
        first = len(self.done.steps)
        for number, (ids, hidden) in enumerate(self.fed(self.batches[first:]), start=first + 1):
            yield number, ids, hidden

    def fed(
        self, left: Sequence[npt.NDArray[np.int64]]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Hidden | None]]:
        """Batches, with the share's hidden states of each where they are fed."""
        hidden_states: Iterator[Hidden | None] = itertools.repeat(None)
        if self._feed is not None:
            hidden_states = self._feed.batches([self._share(ids) for ids in left])
        for ids in left:
            self.watch.start()
            hidden = next(hidden_states)
            if self._feed is not None:
                self.done.activation_bytes_read += self._feed.batch_bytes(ids)
            yield ids, hidden

    def backward(self, ids: npt.NDArray[np.int64], hidden: Hidden | None) -> Tensor:
        """Leave the batch's gradients behind; its share of the loss stays on the device."""
        batch, targets, hidden = self.inputs(ids, hidden)
        self.watch.lap("prefix")
        share, whole = self._share(ids), self._weigh(ids)
        size = self._micro_batch * self._group_size if self._micro_batch else len(share)
        starts = range(0, len(share), size)
        losses = []
        for start in starts:
            part = slice(start, start + size)
            last = start == starts[-1]
            with contextlib.nullcontext() if last else self._suffix.accumulating():
                groups = len(ids) // self._group_size
                weight = self._group.weight(groups, whole, self._weigh(share[part]))
                losses.append(self._backward(batch, targets, hidden, part, weight))
        self.done.num_passes += len(losses)
        return sum(losses[1:], start=losses[0])

    def _share(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._group.share(ids, self._group_size)

    def _weigh(self, ids: npt.NDArray[np.int64]) -> int:
        return len(ids) if self._weights is None else int(self._weights[ids].sum())

    def inputs(
        self, ids: npt.NDArray[np.int64], hidden: Hidden | None
    ) -> tuple[Batch, Targets, Hidden | None]:
        """This worker's share of a batch, its targets, and hidden states at the boundary."""
        boundary, share = self._state.freeze.boundary, self._share(ids)
        trainee = self._trainee
        batch, targets = trainee.task.collate(trainee.examples, share, self._compute.device)
        if self._augmentation is not None:
            batch = trainee.task.augmented(batch, self._augmentation)
        self.watch.lap("read")
        if boundary:
            hidden = self._run_prefix(batch, boundary, hidden)
        return batch, targets, hidden

    def _backward(
        self, batch: Batch, targets: Targets, hidden: Hidden | None, part: slice, weight: float
    ) -> Tensor:
        some, wanted = _some(batch, part), dict(_some(targets, part))
        states = None if hidden is None else _some(hidden, part)
        with self._compute.autocast():
            logits = self._suffix.logits(some, self._state.freeze.boundary, states)
        loss = self._trainee.task.loss(logits, wanted) * weight
        loss.backward()
        return loss.detach()

    def _run_prefix(self, batch: Batch, boundary: int, hidden: Hidden | None) -> Hidden:
        start, dtype = 0 if self._feed is None else self._feed.boundary, self._trainee.dtype
        if hidden is not None and boundary == start:
            return hidden
        with torch.no_grad(), self._compute.autocast():
            rounding = partial(round_block, dtype=dtype)
            hidden = self._split.hidden(batch, boundary, start, hidden, rounding)
            # As in what is read back: a loss may be over all columns, as that of spans is.
            states = round_boundary(hidden, dtype)
            return {name: without_padding(one, batch) for name, one in states.items()}

    def change_boundary(self) -> None:
        """Train what is above the new boundary, and nothing else."""
        self.drop_frozen()
        self._compiler.compile(self._state.freeze.boundary)
        self._suffix.wrap()

    def drop_frozen(self) -> None:
        """What is below the boundary requires no gradients; what was kept for it is let go."""
        self._split.set_training(self._state.freeze.boundary)
        self._state.optimizer.drop_frozen()
        self._compute.release_memory()

    def so_far(self) -> TrainedEpoch:
        """What was trained until now, which later steps do not change; waits for the device."""
        seconds = {name: self.watch.seconds().get(name, 0.0) for name in _LAPS}
        before = {name: getattr(self.done, f"{name}_seconds") for name in _LAPS}
        return replace(
            self.done,
            **{f"{name}_seconds": before[name] + seconds[name] for name in _LAPS},
            train_seconds=sum(before.values()) + sum(seconds.values()),
            bytes_reduced=self.done.bytes_reduced + self._suffix.bytes_reduced,
            steps=list(self.done.steps),
            intervals=list(self.done.intervals),
        )

    def finish(self) -> TrainedEpoch:
        """Release what is compiled; add up the seconds. The last decision is still to come."""
        self._compiler.release()
        found = self.so_far()
        found.steps, found.intervals = self.done.steps, self.done.intervals
        self.done = found
        return found


def _some(named: Batch, part: slice) -> Batch:
    """Of a batch, or of its hidden states, some of the examples."""
    return {name: values[part] for name, values in named.items()}


class Losses:
    """Losses on their way to the log; they are read together, as each reading waits."""

    def __init__(self, done: TrainedEpoch, group: WorkerGroup) -> None:
        self._steps = done.steps
        self._group = group
        self._waiting: list[tuple[StepLog, Tensor]] = []

    def add(self, step: StepLog, loss: Tensor) -> None:
        """Note a step whose loss is still on the device."""
        self._waiting.append((step, loss))

    def read(self) -> None:
        """Complete the log of the steps so far; every worker must."""
        if not self._waiting:
            return
        values = self._group.mean(torch.stack([loss for _, loss in self._waiting])).tolist()
        for (step, _), value in zip(self._waiting, values, strict=True):
            if not math.isfinite(value):
                raise diverged(f"the loss at step {step.step} is {value}")
            self._steps.append(replace(step, loss=value))
        self._waiting.clear()


def diverged(what: str) -> AutoFreezeError:
    """The error of a training that can only get worse."""
    return AutoFreezeError(
        f"{what}: training diverged. Lower training.learning_rate, or set training.precision to "
        "fp32."
    )
