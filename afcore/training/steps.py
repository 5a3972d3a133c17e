"""The steps of an epoch: batches in, gradients out; their losses on the way to the log.

The prefix runs in eval mode under ``no_grad`` (not ``inference_mode``: its outputs enter a
backward pass), or its outputs come from the feed; the suffix runs forward and backward. Each worker
does so with its share of every batch.
"""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.codec import HiddenDtype, round_block, round_boundary
from afcore.activations.feed import HiddenFeed
from afcore.compute import Compute
from afcore.data.prepare import Examples
from afcore.distributed import WorkerGroup
from afcore.errors import AutoFreezeError
from afcore.model.compile import Backend, SuffixCompiler
from afcore.model.split_model import Batch, Hidden
from afcore.tasks.text_classification import classification_loss, collate
from afcore.training.data_parallel import Suffix
from afcore.training.head import HeadFeatures, solve_head
from afcore.training.stopwatch import Stopwatch
from afcore.training.trained import StepLog, TrainedEpoch, TrainingState

__all__ = ["Losses", "Steps", "diverged"]

_log = logging.getLogger(__name__)


class Steps:
    """Batches in, gradients out: everything of a step but what is done with its gradients."""

    def __init__(
        self,
        *,
        state: TrainingState,
        examples: Examples,
        batches: list[npt.NDArray[np.int64]],
        compute: Compute,
        group: WorkerGroup,
        pad_token_id: int,
        hidden_dtype: HiddenDtype,
        read_boundary: int,
        feed: HiddenFeed | None,
        micro_batch: int | None,
        compile_backend: Backend | None,
        done: TrainedEpoch,
    ) -> None:
        self.done = done
        self._state = state
        self._split = state.split
        self._examples = examples
        self._batches = batches
        self._compute = compute
        self._group = group
        self._pad_token_id = pad_token_id
        self._dtype: HiddenDtype = hidden_dtype
        self._read_boundary = read_boundary
        self._feed = feed
        self._micro_batch = micro_batch
        self._split.set_training(state.freeze.boundary)
        self._compiler = SuffixCompiler(self._split, compile_backend)
        self._compiler.compile(state.freeze.boundary)
        self._suffix = Suffix(self._split, group)
        self._suffix.wrap()
        self.watch = Stopwatch(compute.device)

    def shares(self) -> Iterator[tuple[int, npt.NDArray[np.int64], Hidden | None]]:
        """For each batch to come: its number from 1, its ids, the share's hidden states if fed."""
        first = len(self.done.steps)
        left = self._batches[first:]
        hidden_states: Iterator[Hidden | None] = itertools.repeat(None)
        if self._feed is not None:
            hidden_states = self._feed.batches([self._group.share(ids) for ids in left])
        for number, ids in enumerate(left, start=first + 1):
            self.watch.start()
            hidden = next(hidden_states)
            if self._feed is not None:
                self.done.activation_bytes_read += self._feed.batch_bytes(ids)
            yield number, ids, hidden

    def backward(self, ids: npt.NDArray[np.int64], hidden: Hidden | None) -> Tensor:
        """Leave the batch's gradients behind; its share of the loss stays on the device."""
        batch, labels, hidden = self._inputs(ids, hidden)
        self.watch.lap("prefix")
        size = self._micro_batch or len(labels)
        starts = range(0, len(labels), size)
        losses = []
        for start in starts:
            part = slice(start, start + size)
            last = start == starts[-1]
            with contextlib.nullcontext() if last else self._suffix.accumulating():
                losses.append(self._backward(batch, labels, hidden, part, len(ids)))
        self.done.num_passes += len(losses)
        return sum(losses[1:], start=losses[0])

    def _inputs(
        self, ids: npt.NDArray[np.int64], hidden: Hidden | None
    ) -> tuple[Batch, Tensor, Hidden | None]:
        """This worker's share of a batch, its labels, and hidden states at the boundary."""
        boundary, share = self._state.freeze.boundary, self._group.share(ids)
        batch, labels = collate(self._examples, share, self._pad_token_id, self._compute.device)
        self.watch.lap("read")
        if boundary:
            hidden = self._run_prefix(batch, boundary, hidden)
        return batch, labels, hidden

    def _backward(
        self, batch: Batch, labels: Tensor, hidden: Hidden | None, part: slice, batch_size: int
    ) -> Tensor:
        some, states = _some(batch, part), None if hidden is None else _some(hidden, part)
        with self._compute.autocast():
            logits = self._suffix.logits(some, self._state.freeze.boundary, states)
        weight = self._group.weight(batch_size, len(logits))
        loss = classification_loss(logits, labels[part]) * weight
        loss.backward()
        return loss.detach()

    def _run_prefix(self, batch: Batch, boundary: int, hidden: Hidden | None) -> Hidden:
        if hidden is not None and boundary == self._read_boundary:
            return hidden
        with torch.no_grad(), self._compute.autocast():
            rounding = partial(round_block, dtype=self._dtype)
            hidden = self._split.hidden(batch, boundary, self._read_boundary, hidden, rounding)
            return round_boundary(hidden, self._dtype)

    def solve_head(self, num_classes: int) -> None:
        """Begin with the best last layer on what the blocks put out now; see :mod:`.head`.

        One pass over the epoch's batches, each worker on its share. A model whose logits are not
        those of one linear layer at one position keeps the head that it has.
        """
        found = HeadFeatures(self._split, num_classes)
        self._split.model.eval()
        features, labels = [], []
        for _, ids, hidden in self.shares():
            batch, answers, hidden = self._inputs(ids, hidden)
            with self._compute.autocast():
                some = found.take(batch, self._state.freeze.boundary, hidden)
            if some is None:
                _log.info("head: begins as it was drawn; its last layer was not found")
                break
            features.append(some)
            labels.append(answers.cpu())
            self.watch.lap("prefix")
        else:
            self._solve_together(found, torch.cat(features), torch.cat(labels))
        self._split.set_training(self._state.freeze.boundary)
        self.watch.lap("suffix")

    def _solve_together(self, found: HeadFeatures, features: Tensor, labels: Tensor) -> None:
        """The first worker solves; the others take what it found."""
        assert found.layer is not None
        shares = self._group.gather((features, labels))
        state = None
        if self._group.is_first:
            features, labels = (torch.cat(parts) for parts in zip(*shares, strict=True))
            objective = solve_head(found.layer, features, labels)
            state = {name: value.cpu() for name, value in found.layer.state_dict().items()}
            _log.info("head: solved on %d examples, objective %.3f", len(labels), objective)
        found.layer.load_state_dict(self._group.tell(state))

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

    def finish(self) -> TrainedEpoch:
        """Release what is compiled; add up the seconds."""
        self._compiler.release()
        seconds, done = self.watch.seconds(), self.done
        done.read_seconds += seconds.get("read", 0.0)
        done.prefix_seconds += seconds.get("prefix", 0.0)
        done.suffix_seconds += seconds.get("suffix", 0.0)
        done.train_seconds = done.read_seconds + done.prefix_seconds + done.suffix_seconds
        done.bytes_reduced += self._suffix.bytes_reduced
        return done


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
