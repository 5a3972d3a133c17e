"""What an epoch of a run reads: the run's profile, and :mod:`afcore.planning.timing` applied to it.

The profile is measured once, before the first step, and kept in the run's folder, so that a restart
decides from the same figures. After each epoch its own seconds correct the profile by one factor.
"""

import contextlib
import logging
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from afcore.activations.codec import row_bytes
from afcore.activations.kept import measure_budgets
from afcore.activations.layout import SHARD_BYTES
from afcore.activations.materialize import PrefixRunner
from afcore.blocks import SplitModel
from afcore.compute import Compute
from afcore.data.order import epoch_batches
from afcore.data.prepare import Examples
from afcore.measuring.compute import profile_compute
from afcore.measuring.store import probe_bandwidths
from afcore.planning.source import SourceDecision, choose_source
from afcore.planning.timing import (
    Profile,
    Reading,
    Work,
    forecast_epoch,
)
from afcore.runs import Run, read_record
from afcore.tiers import choose_window, place
from afcore.training import TrainedEpoch

__all__ = ["SourcePlanner", "epoch_work", "measure_profile", "place_set"]

_RUN_BUDGET_SECONDS = 1.5
_log = logging.getLogger(__name__)


class SourcePlanner:
    """Decides for one run.

    Args:
        run: open.
        split: the model; profiled as it is when the first decision is due.
        examples: the training split.
        compute: device and precision.
        runner: of the same model and examples.
    """

    def __init__(
        self,
        run: Run,
        split: SplitModel,
        examples: Examples,
        compute: Compute,
        runner: PrefixRunner,
    ) -> None:
        self._run = run
        self._split = split
        self._examples = examples
        self._compute = compute
        self._runner = runner
        self._profile: Profile | None = None

    @property
    def profile(self) -> Profile:
        """Recorded, or measured now."""
        if self._profile is None:
            key = f"{self._run.folder}/profile.json"
            self._profile = read_record(self._run.storage, key, Profile)
            if self._profile is None:
                self._profile = measure_profile(
                    self._run,
                    self._split,
                    self._examples,
                    self._compute,
                    self._runner,
                    budget_seconds=_RUN_BUDGET_SECONDS,
                )
                self._run.storage.put(key, self._profile.model_dump_json().encode())
        return self._profile

    def decide(
        self,
        epoch: int,
        *,
        boundary: int,
        read_boundary: int,
        exists: bool,
        scale: float = 1.0,
        max_set_bytes: int | None = None,
    ) -> SourceDecision:
        """What epoch ``epoch`` and those after it should read.

        Args:
            epoch: the next one, 1-based.
            boundary: as it starts.
            read_boundary: of the set at hand; 0 for none.
            exists: whether the store has the set at ``boundary``.
            scale: of the profile's seconds.
            max_set_bytes: a larger set is not built.
        """
        work = self._work(epoch)
        decision = choose_source(
            self.profile,
            work,
            boundary=boundary,
            read_boundary=read_boundary,
            exists=exists,
            epochs_left=self._run.config.training.epochs - epoch + 1,
            reading=place_set(self._run, work.set_bytes),
            statistics=self._decides,
            scale=scale,
            max_set_bytes=max_set_bytes,
        )
        _log.info("plan of epoch %d: %s", epoch, decision.text())
        return decision

    def scale(self, epoch: int, read_boundary: int, trained: TrainedEpoch) -> float:
        """How many times as long an epoch computed as the profile says."""
        compute = trained.prefix_seconds + trained.suffix_seconds
        predicted = self._hindsight(epoch, read_boundary, trained, 1.0)
        return compute / predicted[0]

    def error(
        self, epoch: int, decision: SourceDecision, trained: TrainedEpoch, train_seconds: float
    ) -> float:
        """Predicted over actual seconds, less 1, for the boundaries that the epoch then had."""
        compute, read = self._hindsight(epoch, decision.read_boundary, trained, decision.scale)
        error = (compute + read) / train_seconds - 1
        _log.info(
            "epoch %d: predicted %.1f s for the boundaries it had, took %.1f s (%+.0f %%)",
            *(epoch, compute + read, train_seconds, 100 * error),
        )
        return error

    def _hindsight(
        self, epoch: int, read_boundary: int, trained: TrainedEpoch, scale: float
    ) -> tuple[float, float]:
        """Predicted seconds of (computing, reading) once the boundaries are known."""
        work = self._work(epoch)
        forecast = forecast_epoch(
            self.profile.scaled(scale),
            work,
            [step.boundary for step in trained.steps],
            read_boundary=read_boundary,
            reading=place_set(self._run, work.set_bytes),
            statistics=self._decides,
        )
        return forecast.prefix_seconds + forecast.suffix_seconds, forecast.read_seconds

    @property
    def _decides(self) -> bool:
        return self._run.config.freezing.keeps_statistics

    def _work(self, epoch: int) -> Work:
        return epoch_work(self._run, self._examples, self._runner, epoch)


def measure_profile(
    run: Run,
    split: SplitModel,
    examples: Examples,
    compute: Compute,
    runner: PrefixRunner,
    *,
    budget_seconds: float,
) -> Profile:
    """Measure the model, the store and the tiers.

    Args:
        run: says how it is trained and where it stores; nothing of it is changed.
        split: copied.
        examples: the training split.
        compute: device and precision.
        runner: of the same model and examples.
        budget_seconds: see :func:`afcore.measuring.compute.profile_compute`.

    Raises:
        StoreError: when the store cannot be used.
    """
    clock = time.perf_counter()
    batches = _batches(run, examples, 1)
    with _quiet("afcore.training", "afcore.feed.hidden"):
        fitted = profile_compute(
            split,
            examples,
            batches,
            pad_token_id=run.record.pad_token_id,
            compute=compute,
            hidden_dtype=run.config.cache.dtype,
            max_grad_norm=run.config.training.max_grad_norm,
            budget_seconds=budget_seconds,
        )
        bandwidths = probe_bandwidths(run.storage, run.activations_folder, runner, batches)
    seconds = time.perf_counter() - clock
    _log.info(
        "profile in %.1f s: a block takes %.2f us a token trained and %.2f us frozen; store "
        "%.0f MB/s read, %.0f MB/s written, %.1f ms; %s",
        *(seconds, fitted.suffix_block_token * 1e6, fitted.prefix_block_token * 1e6),
        *(bandwidths.store_read / 1e6, bandwidths.store_write / 1e6),
        bandwidths.store_latency_seconds * 1e3,
        ", ".join(f"{tier} {speed / 1e6:.0f} MB/s" for tier, speed in bandwidths.tiers.items()),
    )
    return Profile(compute=fitted, bandwidths=bandwidths, seconds=seconds)


def epoch_work(run: Run, examples: Examples, runner: PrefixRunner, epoch: int) -> Work:
    """What epoch ``epoch``, 1-based, goes through."""
    hidden_bytes = row_bytes(runner.hidden_size, runner.dtype)
    return Work.of(examples.lengths, _batches(run, examples, epoch), hidden_bytes)


def place_set(run: Run, num_bytes: int) -> Reading:
    """What an epoch reads of a set, and from where.

    What memory holds is fetched once; what it does not hold is streamed in every epoch, and taken
    to come at the store's speed. All of it is gathered in host memory.
    """
    cache = run.config.cache
    budgets = measure_budgets(
        cache.device_bytes,
        cache.host_bytes,
        cache.disk_bytes,
        run.compute.device,
        run.storage.protocol == "file",
    )
    whole, rest = divmod(num_bytes, SHARD_BYTES)
    shards = [SHARD_BYTES] * whole + [rest] * (rest > 0)
    tiers = place(shards, budgets, choose_window(shards, budgets))
    streamed = sum(
        size
        for size, tier in zip(shards, tiers, strict=True)
        if tier in ("local disk", "object store")
    )
    return Reading({"host memory": num_bytes}, store_bytes=streamed)


def _batches(run: Run, examples: Examples, epoch: int) -> list[npt.NDArray[np.int64]]:
    config = run.config
    return epoch_batches(
        examples.lengths,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        epoch=epoch,
        batching=config.data.batching,
    )


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """What is done for measuring only should not be logged as training and reading."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
