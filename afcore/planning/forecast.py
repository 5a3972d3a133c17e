"""Seconds and dollars of an epoch, from a profile. No I/O, no torch; docs/scaling.md.

The model, fitted by :mod:`afcore.measuring` (docs/decisions/0014). ``L`` blocks, boundary ``k``, a
set at ``r <= k`` (0: tokens), ``T`` tokens of a batch with padding, ``P(k)`` parameters that
train::

    suffix of a step = step + token * T + block_token * T * (L - 1 - k) + update * P(k)
                       + embeddings, at k = 0  + statistics * P(k), where a policy decides and
                                                 more than the last block trains
    prefix of a step = step + token * T, at r = 0  + block_token * T * (k - r)
    reading an epoch = bytes from the store / its speed + bytes of the set / memory's speed
    building a set   = (token + block_token * (k - r)) * tokens + writing [+ reading the one below]

A set takes the same bytes at every boundary. Reading is not taken to overlap with computing.

Of N workers each takes every N-th example of each batch, so what counts per token is divided by N,
and what counts per step (fixed parts, the optimizer) is not. On top come the all-reduce of what
trains and the start of the workers. A set is opened by each worker and gathered by all; it is built
in whole shards, the busiest worker's deciding. The checkpoint is rank 0's alone: the others wait,
and are paid.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from afcore.cost import Prices, Usage, cost_usd
from afcore.planning.profile import ComputeProfile, Profile, Reading, Record

__all__ = ["EpochSetup", "Forecast", "Work", "build_seconds", "forecast_epoch"]

BYTES_OF_WEIGHT, BYTES_OF_MOMENTS = 4, 8
"""Of a parameter: fp32, and Adam's two moments."""
_FREE = Prices(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Work:
    """What a training goes through in each epoch.

    Attributes:
        num_steps: batches.
        padded_tokens: of all batches.
        num_tokens: the same without padding.
        hidden_bytes: stored bytes of one token's hidden state.
        reading: of an epoch that reads a set.
        validation_tokens: scored after each epoch.
        test_tokens: scored once.
        statistics: whether a policy decides from them.
        solved_share: of the batches, run before the first step where a head is solved.
    """

    num_steps: int
    padded_tokens: int
    num_tokens: int = 0
    hidden_bytes: int = 0
    reading: Reading = Reading(0, 0)  # noqa: RUF009 - frozen
    validation_tokens: int = 0
    test_tokens: int = 0
    statistics: bool = False
    solved_share: float = 1.0

    @classmethod
    def of(
        cls,
        lengths: npt.NDArray[np.int64],
        batches: Sequence[npt.NDArray[np.int64]],
        hidden_bytes: int,
    ) -> "Work":
        """Count an epoch's steps.

        Args:
            lengths: [n] tokens of each example.
            batches: of example ids.
            hidden_bytes: see above.
        """
        padded = sum(len(ids) * int(lengths[ids].max()) for ids in batches)
        return cls(len(batches), padded, int(lengths.sum()), hidden_bytes)

    @property
    def set_bytes(self) -> int:
        """Of an activation set."""
        return self.num_tokens * self.hidden_bytes


class EpochSetup(Record):
    """How an epoch is trained.

    Attributes:
        boundaries: in force, for equal shares of the steps; one if it stays.
        read_boundary: of the set that is read, at most the first boundary; 0 for tokens.
        num_workers: N; each is paid until the epoch ends.
        micro_batch: examples of a worker in one pass; None: all that it has of a batch.
        accumulation: passes of a worker in a step.
        fits: whether the memory of its workers holds it.
        built_from: boundary of what its set is built from first (0: tokens); None: nothing is.
        builders: workers that build it, those of the epoch before.
        first: of the training: its checkpoint has every weight.
        last: of the training: the test is scored too.
        solves_head: before its first step, by a pass over some of its batches.
    """

    boundaries: Sequence[int]
    read_boundary: int = 0
    num_workers: int = 1
    micro_batch: int | None = None
    accumulation: float = 1
    fits: bool = True
    built_from: int | None = None
    builders: int = 1
    first: bool = False
    last: bool = False
    solves_head: bool = False


class Forecast(Record):
    """An epoch, predicted.

    Attributes:
        setup: what it was predicted for.
        prefix_seconds: running frozen blocks, and what is run to solve the head.
        suffix_seconds: training the others.
        allreduce_seconds: exchanging gradients, as far as not hidden.
        read_seconds: opening and gathering a set.
        startup_seconds: until the workers have the model.
        materialize_seconds: building the set.
        checkpoint_seconds: writing the trained state, by one worker.
        evaluate_seconds: scoring.
        activation_bytes_written: of the set built.
        cost_usd: of all of it, storage and requests included.
    """

    setup: EpochSetup
    prefix_seconds: float = 0.0
    suffix_seconds: float = 0.0
    allreduce_seconds: float = 0.0
    read_seconds: float = 0.0
    startup_seconds: float = 0.0
    materialize_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    activation_bytes_written: int = 0
    cost_usd: float = 0.0

    @property
    def train_seconds(self) -> float:
        """Steps."""
        computing = self.prefix_seconds + self.suffix_seconds + self.allreduce_seconds
        return computing + self.read_seconds

    @property
    def other_seconds(self) -> float:
        """Start, checkpoint and evaluation."""
        return self.startup_seconds + self.checkpoint_seconds + self.evaluate_seconds

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.train_seconds + self.materialize_seconds + self.other_seconds

    @property
    def worker_seconds(self) -> float:
        """Workers times seconds, waiting included."""
        building = self.setup.builders * self.materialize_seconds
        return building + self.setup.num_workers * (self.train_seconds + self.other_seconds)


def forecast_epoch(
    profile: Profile, work: Work, setup: EpochSetup, prices: Prices = _FREE
) -> Forecast:
    """Predict an epoch.

    Args:
        profile: as measured; without ``workers`` only one worker can be predicted.
        work: of the training.
        setup: of the epoch.
        prices: ``gpu_hour_usd`` is one worker's.
    """
    compute, bandwidths, count = profile.compute, profile.bandwidths, setup.num_workers
    workers, reads = profile.known_workers(count), setup.read_boundary
    slowdown = workers.slowdown(count)
    padded_tokens = math.ceil(work.padded_tokens / count)

    def mean(seconds: Callable[[int], float]) -> float:
        return sum(map(seconds, setup.boundaries)) / len(setup.boundaries)

    def suffix(boundary: int) -> float:
        per_step, per_token = _suffix_terms(compute, boundary, work.statistics)
        further = (setup.accumulation - 1) * _pass_seconds(compute, boundary)
        return work.num_steps * (per_step + further) + padded_tokens * per_token

    def prefix(boundary: int) -> float:
        if boundary == reads:
            return 0.0
        per_token = compute.prefix_block_token * (boundary - reads)
        if not reads:
            per_token += compute.prefix_token
        return work.num_steps * compute.prefix_step + padded_tokens * per_token

    gathering = bandwidths.gather_seconds(work.reading, count) if reads else 0.0
    fetching = bandwidths.fetch_seconds(work.reading.store_bytes) if reads else 0.0
    built = setup.built_from is not None
    solved = work.solved_share if setup.solves_head else 0.0
    forecast = Forecast(
        setup=setup,
        prefix_seconds=slowdown * (mean(prefix) + solved * prefix(compute.num_blocks)),
        suffix_seconds=slowdown * mean(suffix),
        allreduce_seconds=work.num_steps
        * mean(lambda k: workers.allreduce_seconds(compute.num_parameters[k], count)),
        read_seconds=fetching + (1 + solved) * gathering,
        startup_seconds=workers.start_seconds(count),
        materialize_seconds=_built_seconds(profile, work, setup),
        checkpoint_seconds=_checkpoint_seconds(profile, setup),
        evaluate_seconds=slowdown * _evaluate_seconds(profile, work, setup),
        activation_bytes_written=work.set_bytes if built else 0,
    )
    objects = 2 * (compute.num_blocks + 2)  # of a checkpoint
    usage = Usage(
        worker_seconds=forecast.worker_seconds,
        bytes_stored=forecast.activation_bytes_written,
        puts=_objects(profile, forecast.activation_bytes_written) + objects,
        gets=(count * _objects(profile, work.set_bytes) if reads else 0) + objects,
        egress_bytes=count * work.reading.store_bytes if reads else 0,
    )
    return forecast.model_copy(update={"cost_usd": cost_usd(usage, prices)})


def build_seconds(
    profile: Profile, work: Work, boundary: int, built_from: int, num_workers: int = 1
) -> float:
    """The set at ``boundary`` from the one at ``built_from``: what the busiest worker takes."""
    compute, bandwidths = profile.compute, profile.bandwidths
    num_shards = max(1, bandwidths.num_shards(work.set_bytes))
    share = math.ceil(num_shards / num_workers) / num_shards
    per_token = compute.inference_token + (boundary - built_from) * compute.inference_block_token
    computing = (
        work.num_tokens * per_token * profile.known_workers(num_workers).slowdown(num_workers)
    )
    below = bandwidths.fetch_seconds(work.set_bytes) if built_from else 0.0
    return share * (computing + below + bandwidths.write_seconds(work.set_bytes))


def _suffix_terms(compute: ComputeProfile, boundary: int, statistics: bool) -> tuple[float, float]:
    """Seconds of (a step, a padded token)."""
    num_below_last = compute.num_blocks - 1 - boundary
    per_parameter = compute.update
    if statistics and num_below_last:
        per_parameter += compute.statistics
    per_step = compute.num_parameters[boundary] * per_parameter + _pass_seconds(compute, boundary)
    return per_step, compute.suffix_token + compute.suffix_block_token * num_below_last


def _pass_seconds(compute: ComputeProfile, boundary: int) -> float:
    """What a backward pass takes whatever its tokens."""
    return compute.suffix_step + (0.0 if boundary else compute.suffix_embeddings)


def _built_seconds(profile: Profile, work: Work, setup: EpochSetup) -> float:
    if setup.built_from is None:
        return 0.0
    return build_seconds(profile, work, setup.read_boundary, setup.built_from, setup.builders)


def _evaluate_seconds(profile: Profile, work: Work, setup: EpochSetup) -> float:
    """Scoring the validation split; after the last epoch the test split too.

    What an earlier evaluation held of the validation split is there still, if it was of the same
    set and this process's, which lives on.
    """
    compute, count = profile.compute, setup.num_workers
    block = compute.inference_block_token
    from_tokens = compute.inference_token + compute.num_blocks * block
    lives_on = count == 1 and profile.known_workers(count).startup_here_seconds is not None
    held = 0 if setup.first or setup.built_from is not None else setup.read_boundary
    validation = (compute.num_blocks - held) * block if held and lives_on else from_tokens
    seconds = math.ceil(work.validation_tokens / count) * validation
    if setup.last:
        seconds += math.ceil(work.test_tokens / count) * from_tokens
    return seconds


def _checkpoint_seconds(profile: Profile, setup: EpochSetup) -> float:
    """All weights at first, later what trained, and the moments of what still trains."""
    num_parameters = profile.compute.num_parameters
    weights = BYTES_OF_WEIGHT * num_parameters[0 if setup.first else setup.boundaries[0]]
    moments = BYTES_OF_MOMENTS * num_parameters[setup.boundaries[-1]]
    return profile.bandwidths.write_seconds(weights + moments)


def _objects(profile: Profile, num_bytes: int) -> int:
    """Of a set: two for each shard and for the index, and the manifest."""
    return 2 * profile.bandwidths.num_shards(num_bytes) + 3 if num_bytes else 0
