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
import torch

from afcore.activations.codec import row_bytes
from afcore.activations.kept import measure_budgets
from afcore.activations.layout import SHARD_BYTES
from afcore.activations.materialize import PrefixRunner
from afcore.blocks import SplitModel
from afcore.compute import Compute
from afcore.config import CHOOSING_MODES, Config
from afcore.data.order import epoch_batches
from afcore.data.prepare import Examples
from afcore.errors import ConfigError
from afcore.launch.open import open_launcher, worker_threads
from afcore.measuring.compute import profile_compute
from afcore.measuring.links import measure_links
from afcore.measuring.store import probe_bandwidths
from afcore.planning.forecast import Resources, forecast_run, possible_traces
from afcore.planning.resources import (
    MemoryModel,
    ResourceDecision,
    activation_bytes,
    choose_resources,
)
from afcore.planning.scaling import RunWork, forecast_epoch_on
from afcore.planning.source import SourceDecision, choose_source
from afcore.planning.timing import (
    Profile,
    Reading,
    Work,
)
from afcore.planning.workers import WorkerProfile
from afcore.prices import resolve_prices
from afcore.records import EpochRecord
from afcore.runs import Run, read_record
from afcore.tiers import choose_window, place
from afcore.training import TrainedEpoch

__all__ = [
    "EpochPlanner",
    "device_memory",
    "epoch_work",
    "measure_profile",
    "place_set",
    "resources_of",
]

_RUN_BUDGET_SECONDS = 1.5
_FASTEST_LINK = 1e12
_log = logging.getLogger(__name__)


class EpochPlanner:
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

    def next_epoch(
        self,
        epoch: int,
        *,
        boundary: int,
        read_boundary: int,
        exists: bool,
        measured: bool,
        builders: int = 1,
        scale: float = 1.0,
        max_set_bytes: int | None = None,
    ) -> tuple[SourceDecision | None, ResourceDecision | None]:
        """What epoch ``epoch`` and those after it should read, and its workers.

        Args:
            epoch: the next one, 1-based.
            boundary: as it starts.
            read_boundary: of the set at hand; 0 for none.
            exists: whether the store has the set at ``boundary``.
            measured: whether measurements decide what is read; else the configuration has.
            builders: workers that would build a set.
            scale: of the profile's seconds.
            max_set_bytes: a larger set is not built.

        Returns:
            None where nothing was to be decided.
        """
        config = self._run.config
        decision = None
        if measured:
            work = self._work(epoch)
            # As many workers as would be chosen if the set were there.
            workers = self._workers(epoch, boundary, boundary, scale)
            decision = choose_source(
                self.profile,
                work,
                boundary=boundary,
                read_boundary=read_boundary,
                exists=exists,
                epochs_left=config.training.epochs - epoch + 1,
                reading=place_set(self._run, work.set_bytes),
                statistics=self._decides,
                scale=scale,
                max_set_bytes=max_set_bytes,
                num_workers=workers.num_workers if workers else config.workers.max,
                build_workers=builders,
            )
            _log.info("plan of epoch %d: %s", epoch, decision.text())
            read_boundary = decision.read_boundary
        resources = self._workers(epoch, boundary, read_boundary, scale)
        if resources is not None:
            _log.info("workers of epoch %d: %s", epoch, resources.text())
        return decision, resources

    def _workers(
        self, epoch: int, boundary: int, read_boundary: int, scale: float
    ) -> ResourceDecision | None:
        """None where the mode does not choose."""
        config = self._run.config
        if config.mode not in CHOOSING_MODES or config.workers.max == 1:
            return None
        deadline, budget = _limits_left(self._run, epoch)
        return choose_resources(
            self.profile.scaled(scale),
            self._run_work(epoch),
            boundary,
            read_boundary,
            mode=config.mode,
            max_workers=config.workers.max,
            batch_size=config.training.batch_size,
            prices=resolve_prices(config.prices),
            micro_batch=config.workers.micro_batch,
            memory=device_memory(self._run, self._split),
            epochs_left=config.training.epochs - epoch + 1,
            first=epoch == 1,
            last=epoch == config.training.epochs,
            deadline_seconds=deadline,
            budget_usd=budget,
        )

    def check_limits(self) -> None:
        """Refuse a deadline or a budget that not even the best freezing could keep.

        Raises:
            ConfigError: with the best that can be reached.
        """
        config, workers = self._run.config, self._run.config.workers
        if config.mode not in CHOOSING_MODES:
            return
        if workers.deadline_seconds is None and workers.budget_usd is None:
            return
        freezing = config.freezing
        traces = possible_traces(
            freezing.policy,
            num_blocks=self._split.num_blocks,
            depth=freezing.depth,
            patience=freezing.patience,
            epochs=config.training.epochs,
            intervals=freezing.intervals_per_epoch,
        )
        forecasts = [
            forecast_run(
                self.profile,
                self._run_work(1),
                trace,
                mode=config.mode,
                case=case,
                cache_mode=config.cache.mode,
                prices=resolve_prices(config.prices),
                resources=resources_of(config, device_memory(self._run, self._split)),
            )
            for case, trace in traces.items()
        ]
        if workers.deadline_seconds is not None:
            best = min(forecasts, key=lambda one: one.seconds)
            kept, wanted = best.seconds <= workers.deadline_seconds, "deadline_seconds"
            limit = f"{workers.deadline_seconds:.1f} s"
        else:
            assert workers.budget_usd is not None
            best = min(forecasts, key=lambda one: one.cost_usd)
            kept, wanted = best.cost_usd <= workers.budget_usd, "budget_usd"
            limit = f"${workers.budget_usd:.4f}"
        if not kept:
            raise ConfigError(
                f"workers.{wanted}: {limit} cannot be kept with up to {workers.max} workers; the "
                f"best predicted is {best.seconds:.1f} s and ${best.cost_usd:.4f}, if blocks "
                "freeze as early as they may. Give it more, more workers, or fewer epochs."
            )

    def _run_work(self, epoch: int) -> RunWork:
        data, work = self._run.data(), self._work(epoch)
        return RunWork(
            epoch=work,
            reading=place_set(self._run, work.set_bytes),
            validation_tokens=len(data.validation.tokens),
            test_tokens=len(data.test.tokens) if data.test else 0,
            statistics=self._decides,
        )

    def scale(
        self, epoch: int, read_boundary: int, trained: TrainedEpoch, num_workers: int = 1
    ) -> float:
        """How many times as long an epoch computed as the profile says."""
        compute = trained.prefix_seconds + trained.suffix_seconds
        predicted = self._hindsight(epoch, read_boundary, trained, 1.0, num_workers)
        return compute / predicted[0]

    def error(
        self,
        epoch: int,
        decision: SourceDecision,
        trained: TrainedEpoch,
        train_seconds: float,
        num_workers: int = 1,
    ) -> float:
        """Predicted over actual seconds, less 1, for the boundaries that the epoch then had."""
        compute, read = self._hindsight(
            epoch, decision.read_boundary, trained, decision.scale, num_workers
        )
        error = (compute + read) / train_seconds - 1
        _log.info(
            "epoch %d: predicted %.1f s for the boundaries it had, took %.1f s (%+.0f %%)",
            *(epoch, compute + read, train_seconds, 100 * error),
        )
        return error

    def _hindsight(
        self,
        epoch: int,
        read_boundary: int,
        trained: TrainedEpoch,
        scale: float,
        num_workers: int,
    ) -> tuple[float, float]:
        """Predicted seconds of (computing, reading) once the boundaries are known."""
        work = self._work(epoch)
        forecast = forecast_epoch_on(
            self.profile.scaled(scale),
            work,
            [step.boundary for step in trained.steps],
            num_workers=num_workers,
            read_boundary=read_boundary,
            reading=place_set(self._run, work.set_bytes),
            statistics=self._decides,
        )
        compute = forecast.prefix_seconds + forecast.suffix_seconds + forecast.allreduce_seconds
        return compute, forecast.read_seconds

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
    workers = _measure_workers(run)
    seconds = time.perf_counter() - clock
    _log.info(
        "profile in %.1f s: a block takes %.2f us a token trained and %.2f us frozen; store "
        "%.0f MB/s read, %.0f MB/s written, %.1f ms; %s",
        *(seconds, fitted.suffix_block_token * 1e6, fitted.prefix_block_token * 1e6),
        *(bandwidths.store_read / 1e6, bandwidths.store_write / 1e6),
        bandwidths.store_latency_seconds * 1e3,
        ", ".join(f"{tier} {speed / 1e6:.0f} MB/s" for tier, speed in bandwidths.tiers.items()),
    )
    return Profile(compute=fitted, bandwidths=bandwidths, seconds=seconds, workers=workers)


def _measure_workers(run: Run) -> WorkerProfile | None:
    """What joins the workers, when there may be several."""
    workers = run.config.workers
    if workers.max == 1:
        return None
    counts = run.config.worker_counts
    clock = time.perf_counter()
    run.pretrained()
    load_seconds = time.perf_counter() - clock
    found = measure_links(
        open_launcher(workers), run.storage, counts[-1], threads=worker_threads(workers)
    )
    _log.info(
        "%d workers: all-reduce %.2f ms a message and %.0f MB/s; started in %.1f s; each computes "
        "%.2f times as long as alone",
        *(found.num_workers, found.latency_seconds * 1e3, found.bytes_per_second / 1e6),
        *(found.startup_seconds, found.contention),
    )
    return WorkerProfile(
        link_latency_seconds=found.latency_seconds,
        link_bytes_per_second=min(found.bytes_per_second, _FASTEST_LINK),
        startup_seconds=found.startup_seconds + load_seconds,
        contention={found.num_workers: found.contention},
    )


def resources_of(config: Config, memory: MemoryModel | None = None) -> Resources:
    """What a training may use."""
    workers = config.workers
    return Resources(
        max_workers=workers.max,
        batch_size=config.training.batch_size,
        micro_batch=workers.micro_batch,
        memory=memory,
        deadline_seconds=workers.deadline_seconds,
        budget_usd=workers.budget_usd,
    )


def device_memory(run: Run, split: SplitModel) -> MemoryModel | None:
    """Of a GPU; a CPU's is taken to suffice."""
    device = run.compute.device
    if device.type != "cuda":
        return None
    hidden = int(split.model.config.hidden_size)
    return MemoryModel(
        limit_bytes=torch.cuda.get_device_properties(device).total_memory,
        example_tokens=run.config.data.max_length,
        block_token_bytes=activation_bytes(hidden, 0, run.config.data.max_length),
    )


def _limits_left(run: Run, epoch: int) -> tuple[float | None, float | None]:
    """Of (the deadline, the budget), after the epochs that are done."""
    keys = [run.epoch_key(before, "report") for before in range(1, epoch)]
    records = [read_record(run.storage, key, EpochRecord) for key in keys]
    reports = [record.report for record in records if record is not None]
    workers = run.config.workers
    deadline, budget = workers.deadline_seconds, workers.budget_usd
    if deadline is not None:
        deadline -= sum(report.seconds for report in reports)
    if budget is not None:
        budget -= sum(report.cost_usd for report in reports)
    return deadline, budget


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
