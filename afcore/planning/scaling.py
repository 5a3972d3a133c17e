"""Seconds and dollars of an epoch on N workers. No I/O, no torch; docs/scaling.md has the formulas.

Each worker takes every N-th example of each batch, so what :mod:`.timing` counts per token is
divided by N, and what it counts per step (fixed parts, the optimizer) is not. On top come the
all-reduce of what trains and the start of the workers. A set is opened by each worker and gathered
by all; it is built in whole shards, the busiest worker's deciding. The checkpoint is rank 0's
alone: the others wait, and are paid.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict

from afcore.cost import Prices, Usage, cost_usd
from afcore.planning.timing import (
    ComputeProfile,
    EpochForecast,
    Profile,
    Reading,
    Work,
    build_seconds,
    forecast_epoch,
)
from afcore.planning.workers import MachineLink, WorkerProfile

__all__ = [
    "Build",
    "MachineLink",
    "RunWork",
    "WorkerProfile",
    "WorkersForecast",
    "build_seconds_on",
    "evaluate_seconds",
    "forecast_epoch_on",
    "forecast_workers",
    "pass_seconds",
    "share_of",
]

BYTES_OF_WEIGHT, BYTES_OF_MOMENTS = 4, 8
"""Of a parameter: fp32, and Adam's two moments."""


@dataclass(frozen=True)
class RunWork:
    """What a training goes through.

    Attributes:
        epoch: every epoch's.
        reading: of an epoch that reads a set.
        validation_tokens: scored after each epoch.
        test_tokens: scored once.
        statistics: whether a policy decides.
        existing: boundaries of sets that the store has from the start.
    """

    epoch: Work
    reading: Reading
    validation_tokens: int
    test_tokens: int
    statistics: bool
    existing: Collection[int] = ()


@dataclass(frozen=True)
class Build:
    """A set to build at ``boundary`` from the one at ``read_boundary`` (0: tokens)."""

    boundary: int
    read_boundary: int
    num_workers: int


class WorkersForecast(BaseModel):
    """An epoch on N workers, predicted.

    Attributes:
        num_workers: N; each is paid until the epoch ends.
        build_workers: that build the set: those of the epoch before.
        prefix_seconds: running frozen blocks.
        suffix_seconds: training the others.
        allreduce_seconds: exchanging gradients, as far as not hidden.
        read_seconds: opening and gathering a set.
        startup_seconds: until the workers have the model.
        materialize_seconds: building a set.
        checkpoint_seconds: writing the trained state, by one worker.
        evaluate_seconds: scoring.
        allreduce_bytes: gradients of a step at the first boundary.
        set_bytes_written: of the set built.
        cost_usd: of all of it, storage and requests included.
    """

    model_config = ConfigDict(frozen=True)

    num_workers: int
    build_workers: int
    prefix_seconds: float
    suffix_seconds: float
    allreduce_seconds: float
    read_seconds: float
    startup_seconds: float
    materialize_seconds: float
    checkpoint_seconds: float
    evaluate_seconds: float
    allreduce_bytes: int
    set_bytes_written: int
    cost_usd: float

    @property
    def train_seconds(self) -> float:
        """Steps."""
        parts = (self.prefix_seconds, self.suffix_seconds, self.allreduce_seconds)
        return sum(parts) + self.read_seconds

    @property
    def seconds(self) -> float:
        """All of it."""
        other = self.startup_seconds + self.checkpoint_seconds + self.evaluate_seconds
        return self.train_seconds + self.materialize_seconds + other

    @property
    def worker_seconds(self) -> float:
        """Workers times seconds, waiting included."""
        building = self.build_workers * self.materialize_seconds
        return building + self.num_workers * (self.seconds - self.materialize_seconds)


def forecast_workers(
    profile: Profile,
    work: RunWork,
    boundaries: Sequence[int],
    *,
    num_workers: int,
    read_boundary: int,
    statistics: bool,
    prices: Prices,
    accumulation: int = 1,
    build: Build | None = None,
    first: bool = False,
    last: bool = False,
) -> WorkersForecast:
    """Predict an epoch.

    Args:
        profile: as measured; without ``workers`` only one worker can be predicted.
        work: of the training.
        boundaries: in force, for equal shares of the steps; one if it stays.
        num_workers: N.
        read_boundary: of the set that is read; 0 for tokens.
        statistics: whether a policy decides.
        prices: in dollars; ``gpu_hour_usd`` is one worker's.
        accumulation: micro-batches of a worker in a step.
        build: the set that is built, if one is.
        first: of the training: its checkpoint has every weight.
        last: of the training: the test is scored too.
    """
    train = forecast_epoch_on(
        profile,
        work.epoch,
        boundaries,
        num_workers=num_workers,
        read_boundary=read_boundary,
        reading=work.reading,
        statistics=statistics,
        accumulation=accumulation,
    )
    written = work.epoch.set_bytes if build else 0
    forecast = WorkersForecast(
        num_workers=num_workers,
        build_workers=build.num_workers if build else num_workers,
        prefix_seconds=train.prefix_seconds,
        suffix_seconds=train.suffix_seconds,
        allreduce_seconds=train.allreduce_seconds,
        read_seconds=train.read_seconds,
        startup_seconds=_workers(profile, num_workers).start_seconds(num_workers),
        materialize_seconds=_build(profile, work, build),
        checkpoint_seconds=_checkpoint_seconds(profile, boundaries, first=first),
        evaluate_seconds=evaluate_seconds(
            profile,
            work,
            num_workers,
            held_boundary=0 if first or build else read_boundary,
            last=last,
        ),
        allreduce_bytes=_allreduce_bytes(profile, boundaries[0], num_workers),
        set_bytes_written=written,
        cost_usd=0.0,
    )
    objects = 2 * (profile.compute.num_blocks + 2)  # of a checkpoint
    read = num_workers * _objects(profile, work.epoch.set_bytes) if read_boundary else 0
    usage = Usage(
        worker_seconds=forecast.worker_seconds,
        bytes_stored=written,
        puts=_objects(profile, written) + objects,
        gets=read + objects,
        egress_bytes=num_workers * work.reading.store_bytes if read_boundary else 0,
    )
    return forecast.model_copy(update={"cost_usd": cost_usd(usage, prices)})


def forecast_epoch_on(
    profile: Profile,
    work: Work,
    boundaries: Sequence[int],
    *,
    num_workers: int,
    read_boundary: int,
    reading: Reading,
    statistics: bool,
    accumulation: float = 1,
) -> EpochForecast:
    """Steps of an epoch on N workers; arguments as of :func:`forecast_workers`."""
    workers = _workers(profile, num_workers)
    slower = profile.scaled(workers.slowdown(num_workers))
    shared = {tier: size // num_workers for tier, size in reading.bytes_by_tier.items()}
    alone = forecast_epoch(
        slower,
        share_of(work, num_workers),
        boundaries,
        read_boundary=read_boundary,
        reading=Reading(shared, reading.store_bytes),
        statistics=statistics,
    )
    compute = slower.compute
    further_passes = work.num_steps * (accumulation - 1)
    allreduce = sum(
        workers.allreduce_seconds(compute.num_parameters[boundary], num_workers)
        for boundary in boundaries
    )
    return EpochForecast(
        prefix_seconds=alone.prefix_seconds,  # once a step, whatever the micro-batches
        suffix_seconds=alone.suffix_seconds + further_passes * pass_seconds(compute, boundaries),
        read_seconds=alone.read_seconds,
        allreduce_seconds=work.num_steps * allreduce / len(boundaries),
    )


def pass_seconds(compute: ComputeProfile, boundaries: Sequence[int]) -> float:
    """What a backward pass takes whatever its tokens: of each further micro-batch of a step."""
    unfrozen = sum(boundary == 0 for boundary in boundaries) / len(boundaries)
    return compute.suffix_step + unfrozen * compute.suffix_embeddings


def build_seconds_on(
    profile: Profile, work: Work, boundary: int, read_boundary: int, num_workers: int
) -> float:
    """Building a set: the share of the worker with the most shards."""
    num_shards = math.ceil(work.set_bytes / profile.bandwidths.shard_bytes)
    share = math.ceil(num_shards / num_workers) / num_shards
    slower = profile.scaled(_workers(profile, num_workers).slowdown(num_workers))
    return share * build_seconds(slower, work, boundary, read_boundary)


def evaluate_seconds(
    profile: Profile, work: RunWork, num_workers: int, *, held_boundary: int = 0, last: bool
) -> float:
    """Scoring the validation split; after the last epoch the test split too.

    Args:
        profile: as measured.
        work: of the training.
        num_workers: N.
        held_boundary: of what an earlier evaluation held of the validation split, if it was this
            process's, which lives on; 0: nothing.
        last: whether the test split is scored.
    """
    compute, workers = profile.compute, _workers(profile, num_workers)
    block = compute.inference_block_token
    from_tokens = compute.inference_token + compute.num_blocks * block
    lives_on = num_workers == 1 and workers.startup_here_seconds is not None
    validation = from_tokens
    if held_boundary and lives_on:
        validation = (compute.num_blocks - held_boundary) * block
    seconds = math.ceil(work.validation_tokens / num_workers) * validation
    if last:
        seconds += math.ceil(work.test_tokens / num_workers) * from_tokens
    return seconds * workers.slowdown(num_workers)


def _workers(profile: Profile, num_workers: int) -> WorkerProfile:
    if profile.workers is not None:
        return profile.workers
    if num_workers == 1:
        return WorkerProfile(link_latency_seconds=0.0, link_bytes_per_second=1.0)
    raise ValueError(f"no link was measured, so nothing is known of {num_workers} workers")


def share_of(work: Work, num_workers: int) -> Work:
    """One worker's part of the tokens, in as many steps."""
    tokens = math.ceil(work.padded_tokens / num_workers)
    return replace(work, padded_tokens=tokens, num_tokens=math.ceil(work.num_tokens / num_workers))


def _build(profile: Profile, work: RunWork, build: Build | None) -> float:
    if build is None:
        return 0.0
    return build_seconds_on(
        profile, work.epoch, build.boundary, build.read_boundary, build.num_workers
    )


def _checkpoint_seconds(profile: Profile, boundaries: Sequence[int], *, first: bool) -> float:
    """All weights at first, later what trained, and the moments of what still trains."""
    num_parameters = profile.compute.num_parameters
    weights = BYTES_OF_WEIGHT * num_parameters[0 if first else boundaries[0]]
    moments = BYTES_OF_MOMENTS * num_parameters[boundaries[-1]]
    return profile.bandwidths.write_seconds(weights + moments)


def _allreduce_bytes(profile: Profile, boundary: int, num_workers: int) -> int:
    if num_workers == 1:
        return 0
    per_parameter = _workers(profile, num_workers).gradient_bytes
    return profile.compute.num_parameters[boundary] * per_parameter


def _objects(profile: Profile, num_bytes: int) -> int:
    """Of a set: two for each shard and for the index, and the manifest."""
    num_shards = math.ceil(num_bytes / profile.bandwidths.shard_bytes)
    return 2 * num_shards + 3 if num_bytes else 0
