"""Measure a model on a few batches: what :mod:`afcore.planning.forecast` predicts from.

Steps run through :func:`afcore.training.loop.train_epoch` itself, on a copy of the model, at a few
boundaries and batch sizes; a linear model is fitted to them by least squares without negative
terms. Weights, moments and random state of the training are not touched.
"""

import copy
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
from afcore.measuring.fit import fit_seconds
from afcore.planning.profile import ComputeProfile
from afcore.trainee import Trainee
from afcore.training.gradients import GradientSums, clip_gradients, norms_of_gradients
from afcore.training.loop import Course, train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from afcore.training.steps import StepSettings
from afcore.training.stopwatch import Stopwatch
from afcore.training.trained import TrainedEpoch, TrainingState

__all__ = ["padded_tokens", "profile_compute", "sample_batches"]

_QUANTILES = (1 / 2, 5 / 6, 1 / 6)
_REPEATS = 3
_MAX_ROUNDS = 8

Batches = list[npt.NDArray[np.int64]]


def profile_compute(
    trainee: Trainee,
    batches: Batches,
    *,
    max_grad_norm: float,
    budget_seconds: float,
    budget_share: float | None = None,
) -> ComputeProfile:
    """Measure and fit.

    Args:
        trainee: on the training split; its model is copied, not changed.
        batches: of an epoch; a few are measured.
        max_grad_norm: clipping; 0 for none.
        budget_seconds: batches are added, and repeated, until it is used; a middling one is
            always measured, which takes about four steps.
        budget_share: that, but no more than this share of an epoch, as the first steps show it.
    """
    with torch.random.fork_rng():
        trial = _Trial(trainee, max_grad_norm)
        most = None if budget_share is None else budget_share * len(batches)
        steps = trial.steps(sample_batches(batches, trainee.examples.lengths), budget_seconds, most)
        update, statistics = trial.parameter_seconds()
        inference = trial.inference_seconds()
        parameters = trial.num_parameters()
    points = [
        _Point(
            boundary,
            padded_tokens,
            float(np.median([done.prefix_seconds for done in runs])),
            float(np.median([done.suffix_seconds for done in runs]))
            - update * parameters[boundary],
        )
        for (boundary, padded_tokens), runs in steps.items()
    ]
    return ComputeProfile(
        num_parameters=parameters,
        update=update,
        statistics=statistics,
        inference_token=inference[0],
        inference_block_token=inference[1],
        **_fit_suffix(points, trainee.split.num_blocks),
        **_fit_prefix([point for point in points if point.boundary]),
    )


class _Trial:
    """A copy of the model that may be trained for nothing."""

    def __init__(self, trainee: Trainee, max_grad_norm: float) -> None:
        self._split = copy.deepcopy(trainee.split)
        self._split.set_training(0)
        self._trainee = replace(trainee, split=self._split)
        self._examples, self._compute = trainee.examples, trainee.compute
        self._max_grad_norm = max_grad_norm
        # What has no gradient is skipped, so one optimizer serves every boundary.
        self._optimizer = SuffixOptimizer(self._split, learning_rate=0.0, weight_decay=0.0)

    def steps(
        self, sample: Batches, budget_seconds: float, budget_steps: float | None
    ) -> dict[tuple[int, int], list[TrainedEpoch]]:
        """Steps by (boundary, padded tokens), batch after batch until the budget is used.

        That is the lesser of ``budget_seconds`` and the time of ``budget_steps`` unfrozen steps.
        """
        began = time.perf_counter()
        done: dict[tuple[int, int], list[TrainedEpoch]] = {}
        self._step(0, sample[-1])  # the first step makes the optimizer's moments
        for repeat in range(_MAX_ROUNDS):
            for ids in sample:
                if not repeat:
                    self._step(0, ids)  # kernels are chosen by shape
                padded = padded_tokens(ids, self._examples.lengths)
                for boundary in _boundaries(self._split.num_blocks):
                    done.setdefault((boundary, padded), []).append(self._step(boundary, ids))
                if budget_steps is not None:
                    unfrozen = done[0, padded][-1].train_seconds
                    budget_seconds = min(budget_seconds, budget_steps * unfrozen)
                if time.perf_counter() - began > budget_seconds:
                    return done
        return done

    def _step(self, boundary: int, ids: npt.NDArray[np.int64]) -> TrainedEpoch:
        """One training step from tokens, at learning rate 0."""
        return train_epoch(
            self._trainee,
            TrainingState(self._optimizer, FreezeState(boundary)),
            [ids],
            Course(1, Schedule(1, 1, "constant")),
            StepSettings(max_grad_norm=self._max_grad_norm),
        )

    def parameter_seconds(self) -> tuple[float, float]:
        """Seconds per parameter of (clipping and update, adding up the statistics)."""
        self._split.set_training(0)
        parameters = self._optimizer.parameters
        count = sum(parameter.numel() for parameter in parameters)
        sums = GradientSums(self._split, 2 * _REPEATS)

        def fill() -> None:
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)

        def update() -> None:
            if self._max_grad_norm:
                clip_gradients(norms_of_gradients(parameters), self._max_grad_norm)
            self._optimizer.step(1.0)

        fill()
        norms = norms_of_gradients(parameters)
        sums.add(norms)
        statistics = self._seconds(partial(sums.add, norms))
        updates = []
        for _ in range(_REPEATS):
            fill()
            updates.append(self._seconds(update, repeats=1))
        return float(np.median(updates)) / count, statistics / count

    def inference_seconds(self) -> tuple[float, float]:
        """Seconds per (token, token and block) of a pass that builds a set."""
        runner = PrefixRunner(self._trainee)
        batches = inference_batches(self._examples.lengths)
        ids = batches[len(batches) // 2]
        num_tokens = int(self._examples.lengths[ids].sum())
        depths = sorted({1, self._split.num_blocks - 1})
        runner.rows(ids, [1])
        seconds = [self._seconds(partial(runner.rows, ids, [depth]), repeats=1) for depth in depths]
        rows = [[num_tokens, num_tokens * depth] for depth in depths]
        per_token, per_block = fit_seconds(rows, seconds)
        return per_token, per_block

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
    prefix_seconds: float
    suffix_seconds: float


def _fit_suffix(points: list[_Point], num_blocks: int) -> dict[str, float]:
    rows = [
        [1, p.padded_tokens, p.padded_tokens * (num_blocks - 1 - p.boundary), p.boundary == 0]
        for p in points
    ]
    found = fit_seconds(rows, [p.suffix_seconds for p in points])
    names = ("suffix_step", "suffix_token", "suffix_block_token", "suffix_embeddings")
    return dict(zip(names, found, strict=True))


def _fit_prefix(points: list[_Point]) -> dict[str, float]:
    rows = [[1, p.padded_tokens, p.padded_tokens * p.boundary] for p in points]
    found = fit_seconds(rows, [p.prefix_seconds for p in points])
    return dict(zip(("prefix_step", "prefix_token", "prefix_block_token"), found, strict=True))


def _boundaries(num_blocks: int) -> list[int]:
    return sorted({0, 1, num_blocks // 2, num_blocks - 1})


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
