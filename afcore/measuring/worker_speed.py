"""Measure training on N workers at once, by steps of the model itself.

What one worker takes for its share is known (:mod:`.step_seconds`). What N of them take for a whole
step is measured at two boundaries and batch sizes, and fitted to::

    step = contention * (what one worker takes for its share)
           + 2 (n - 1) * buckets * alpha + 2 (n - 1) / n * bytes of gradients / beta

the ring's formula (docs/scaling.md). An all-reduce by itself would be faster than one whose bytes
must be gathered and divided while all cores compute, so none is measured by itself.
"""

import math

from afcore.measuring.least_squares import fit_terms
from afcore.measuring.step_seconds import Batches, padded_tokens, sample_batches, trial_steps
from afcore.planning.forecast import EpochSetup, Work, forecast_epoch
from afcore.planning.profile import Profile, WorkerProfile, ring_terms
from afcore.trainee import Trainee
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.steps import StepSettings

__all__ = ["Points", "fit_workers", "measure_together"]

_STEPS = 4
_FASTEST = 1e12
Points = list[tuple[int, int, int, float]]
"""(boundary, padded tokens, backward passes of a worker, seconds of a step)."""


def measure_together(trainee: Trainee, batches: Batches, settings: StepSettings) -> Points:
    """On each worker of the trainee's group; its model is of no use afterwards."""
    split, group, lengths = trainee.split, trainee.group, trainee.examples.lengths
    sample = sample_batches(batches, lengths)
    split.set_training(0)
    # What has no gradient is skipped, so one optimizer serves every boundary.
    optimizer = SuffixOptimizer(split, learning_rate=0.0, weight_decay=0.0)
    points: Points = []
    for boundary in (0, split.num_blocks - 1):
        for ids in (sample[0], sample[-1]):
            trial_steps(trainee, optimizer, boundary, [ids], settings)  # kernels: by shape
            done = trial_steps(trainee, optimizer, boundary, [ids] * _STEPS, settings)
            seconds = group.longest(done.train_seconds) / _STEPS
            passes = done.num_passes // _STEPS
            points.append((boundary, padded_tokens(ids, lengths), passes, seconds))
    return points


def fit_workers(
    profile: Profile, points: Points, count: int, startup_seconds: float
) -> WorkerProfile:
    """Contention, latency and speed that give the measured steps."""
    rows = []
    for boundary, padded, passes, _ in points:
        alone = forecast_epoch(
            profile,
            Work(1, math.ceil(padded / count)),
            EpochSetup(boundaries=[boundary], accumulation=passes),
        )
        num_bytes = 4 * profile.compute.num_parameters[boundary]
        rows.append([alone.train_seconds, *ring_terms(num_bytes, count)])
    names = ("contention", "alpha", "per_byte")
    terms = dict(zip(names, zip(*rows, strict=True), strict=True))
    found = fit_terms(terms, [seconds for *_, seconds in points])
    return WorkerProfile(
        link_latency_seconds=found["alpha"],
        link_bytes_per_second=1 / max(found["per_byte"], 1 / _FASTEST),
        startup_seconds=startup_seconds,
        # Of a small model the exchange is nearly all: the fit may say that computing takes none.
        contention={count: max(1.0, found["contention"])},
    )
