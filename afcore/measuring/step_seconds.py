"""Measure steps of a model on a few batches: what :mod:`afcore.planning.forecast` predicts from.

Steps run through :func:`afcore.training.loop.train_epoch` itself at learning rate 0, at a few
boundaries and batch sizes; a linear model is fitted to them by least squares without negative
terms. They run on the model itself, which is put back afterwards: a second one on the device might
not fit where training does. What does not fit even so is left out: larger passes, then shallower
boundaries.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.materialize import PrefixRunner
from afcore.data.order import inference_batches
from afcore.freezing.policy import FreezeState
from afcore.measuring.least_squares import fit_terms
from afcore.model.quantization import quantized_blocks
from afcore.model.split_model import block_part
from afcore.model.trial import restored
from afcore.planning.profile import ComputeProfile
from afcore.trainee import Trainee
from afcore.training.gradients import GradientSums, clip_gradients, norms_of_gradients
from afcore.training.loop import Course, train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from afcore.training.steps import StepSettings
from afcore.training.stopwatch import Stopwatch
from afcore.training.trained import TrainedEpoch, TrainingState

__all__ = ["measure_steps", "padded_tokens", "sample_batches", "trial_steps"]

_QUANTILES = (1 / 2, 5 / 6, 1 / 6)
_REPEATS = 3
_MAX_ROUNDS = 8
_log = logging.getLogger(__name__)

Batches = list[npt.NDArray[np.int64]]


def measure_steps(
    trainee: Trainee,
    batches: Batches,
    settings: StepSettings,
    *,
    budget_seconds: float,
    budget_share: float | None = None,
) -> ComputeProfile:
    """Measure and fit.

    Args:
        trainee: on the training split; its model is as it was afterwards.
        batches: of an epoch; a few are measured.
        settings: of the training's steps.
        budget_seconds: batches are added, and repeated, until it is used; a middling one is
            always measured, which takes about four steps.
        budget_share: that, but no more than this share of an epoch, as the first steps show it.

    Raises:
        torch.OutOfMemoryError: where not even the last block can be trained on an example.
    """
    with torch.random.fork_rng(), restored(trainee.split.model):
        trial = _Trial(trainee, settings)
        most = None if budget_share is None else budget_share * len(batches)
        steps = trial.steps(sample_batches(batches, trainee.examples.lengths), budget_seconds, most)
        update, statistics = trial.parameter_seconds()
        inference = trial.inference_seconds()
        parameters = trial.num_parameters()
    trainee.compute.release_memory()
    points = [
        _Point(
            boundary,
            padded,
            runs[0].num_passes,
            float(np.median([done.prefix_seconds for done in runs])),
            float(np.median([done.suffix_seconds for done in runs]))
            - update * parameters[boundary],
        )
        for (boundary, padded), runs in steps.items()
    ]
    return ComputeProfile(
        num_parameters=parameters,
        update=update,
        statistics=statistics,
        **inference,
        **_fit_suffix(points, trainee.split.num_blocks),
        **_fit_prefix([point for point in points if point.boundary]),
    )


def trial_steps(
    trainee: Trainee,
    optimizer: SuffixOptimizer,
    boundary: int,
    batches: Batches,
    settings: StepSettings,
) -> TrainedEpoch:
    """Training steps from the examples, for a trial; what has no gradient is not updated."""
    return train_epoch(
        trainee,
        TrainingState(optimizer, FreezeState(boundary)),
        batches,
        Course(1, Schedule(1, len(batches), "constant"), shown=False),
        settings,
    )


class _Trial:
    """A model that may be trained for nothing."""

    def __init__(self, trainee: Trainee, settings: StepSettings) -> None:
        self._split, self._trainee = trainee.split, trainee
        self._examples, self._compute = trainee.examples, trainee.compute
        self._settings = replace(settings, compile_backend=None)
        num_blocks, lowest = self._split.num_blocks, quantized_blocks(self._split)
        depths = (0, 1, num_blocks // 2, num_blocks - 1)
        # Blocks that are quantized cannot be trained.
        self._boundaries = sorted({max(depth, lowest) for depth in depths})
        self._begin()

    def _begin(self) -> None:
        self._split.set_training(self._boundaries[0])
        self._split.model.zero_grad(set_to_none=True)
        # What has no gradient is skipped, so one optimizer serves every boundary.
        self._optimizer = SuffixOptimizer(self._split, learning_rate=0.0, weight_decay=0.0)

    def steps(
        self, sample: Batches, budget_seconds: float, budget_steps: float | None
    ) -> dict[tuple[int, int], list[TrainedEpoch]]:
        """Steps by (boundary, padded tokens), batch after batch until the budget is used.

        That is the lesser of ``budget_seconds`` and the time of ``budget_steps`` unfrozen steps.
        """
        began = time.perf_counter()
        self._make_room(max(sample, key=lambda ids: padded_tokens(ids, self._examples.lengths)))
        done: dict[tuple[int, int], list[TrainedEpoch]] = {}
        for repeat in range(_MAX_ROUNDS):
            for ids in sample:
                if not repeat:
                    self._step(self._boundaries[0], ids)  # kernels are chosen by shape
                padded = padded_tokens(ids, self._examples.lengths)
                for boundary in self._boundaries:
                    done.setdefault((boundary, padded), []).append(self._step(boundary, ids))
                if budget_steps is not None:
                    largest = done[self._boundaries[0], padded][-1].train_seconds
                    budget_seconds = min(budget_seconds, budget_steps * largest)
                if time.perf_counter() - began > budget_seconds:
                    return done
        return done

    def _make_room(self, ids: npt.NDArray[np.int64]) -> None:
        """A first step, which makes the optimizer's moments, within the memory that there is."""
        while True:
            try:
                self._step(self._boundaries[0], ids)
                return
            except torch.OutOfMemoryError:
                size = self._settings.micro_batch or len(ids)
                if size == 1 and len(self._boundaries) == 1:
                    raise
            # After the handler: its exception holds on to what did not fit.
            if size > 1:
                self._settings = replace(self._settings, micro_batch=size // 2)
                _log.info("measuring in passes of %d examples: more do not fit", size // 2)
            else:
                _log.info("boundary %d is not measured: it does not fit", self._boundaries.pop(0))
            self._begin()
            self._compute.release_memory()

    def _step(self, boundary: int, ids: npt.NDArray[np.int64]) -> TrainedEpoch:
        return trial_steps(self._trainee, self._optimizer, boundary, [ids], self._settings)

    def parameter_seconds(self) -> tuple[float, float]:
        """Seconds per parameter of (clipping and update, adding up the statistics)."""
        self._split.set_training(self._boundaries[0])
        parameters = [p for p in self._optimizer.parameters if p.requires_grad]
        count = sum(parameter.numel() for parameter in parameters)

        def fill(some: list[torch.nn.Parameter]) -> None:
            for parameter in some:
                parameter.grad = torch.zeros_like(parameter)

        def update() -> None:
            if self._settings.max_grad_norm:
                clip_gradients(norms_of_gradients(parameters), self._settings.max_grad_norm)
            self._optimizer.step(1.0)

        updates = []
        for _ in range(_REPEATS):
            fill(parameters)
            updates.append(self._seconds(update, repeats=1))
        # Of one block: the sums of all would come on top of what training needs.
        block = list(self._split.part_parameters(block_part(self._boundaries[0])).values())
        sums = GradientSums(self._split, 2 * _REPEATS)
        fill(block)
        norms = norms_of_gradients(block)
        sums.add(norms)
        statistics = self._seconds(partial(sums.add, norms))
        size = sum(parameter.numel() for parameter in block)
        return float(np.median(updates)) / count, statistics / size

    def inference_seconds(self) -> dict[str, float]:
        """Seconds per (token, token and block) of a pass that builds a set."""
        runner = PrefixRunner(self._trainee)
        batches = inference_batches(self._examples.lengths)
        ids = batches[len(batches) // 2]
        num_tokens = int(self._examples.lengths[ids].sum())
        depths = sorted({1, self._split.num_blocks - 1})
        runner.rows(ids, [1])
        seconds = [self._seconds(partial(runner.rows, ids, [depth]), repeats=1) for depth in depths]
        terms = {
            "inference_token": [num_tokens] * len(depths),
            "inference_block_token": [num_tokens * depth for depth in depths],
        }
        return fit_terms(terms, seconds)

    def num_parameters(self) -> list[int]:
        """Parameters that train at boundary 0, 1, ..., L - 1."""
        sizes = {
            part: sum(p.numel() for p in self._split.part_parameters(part).values())
            for part in self._split.parts
        }
        return [
            sum(sizes.values()) - sum(sizes[part] for part in self._split.frozen_parts(boundary))
            for boundary in range(self._split.num_blocks)
        ]

    def _seconds(self, work: Callable[[], object], repeats: int = _REPEATS) -> float:
        seconds = []
        for _ in range(repeats):
            watch = Stopwatch(self._compute.device)
            work()
            watch.lap("work")
            seconds.append(watch.seconds()["work"])
        return float(np.median(seconds))


@dataclass(frozen=True)
class _Point:
    boundary: int
    padded_tokens: int
    num_passes: int
    prefix_seconds: float
    suffix_seconds: float


def _fit_suffix(points: list[_Point], num_blocks: int) -> dict[str, float]:
    terms = {
        "suffix_step": [p.num_passes for p in points],
        "suffix_token": [p.padded_tokens for p in points],
        "suffix_block_token": [p.padded_tokens * (num_blocks - 1 - p.boundary) for p in points],
        "suffix_embeddings": [p.num_passes * (p.boundary == 0) for p in points],
    }
    return fit_terms(terms, [p.suffix_seconds for p in points])


def _fit_prefix(points: list[_Point]) -> dict[str, float]:
    terms: dict[str, list[float]] = {
        "prefix_step": [1.0] * len(points),
        "prefix_token": [p.padded_tokens for p in points],
        "prefix_block_token": [p.padded_tokens * p.boundary for p in points],
    }
    return fit_terms(terms, [p.prefix_seconds for p in points])


def sample_batches(batches: Batches, lengths: npt.NDArray[np.int64]) -> Batches:
    """A middling batch, a large and a small one; fewer where there are no three sizes.

    Args:
        batches: of example ids.
        lengths: [n] tokens of each example.
    """
    ordered = sorted(batches, key=lambda ids: padded_tokens(ids, lengths))
    chosen = [ordered[int(quantile * len(ordered))] for quantile in _QUANTILES]
    return list({padded_tokens(ids, lengths): ids for ids in chosen}.values())


def padded_tokens(ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> int:
    """Of a batch, padding included."""
    return len(ids) * int(lengths[ids].max())
