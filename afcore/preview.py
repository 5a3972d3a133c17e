"""What a training will take, measured before it is run: ``autofreeze plan``.

Data are prepared as a run would (and found by it later), the model is profiled on a few batches,
and nothing is trained.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from afcore.config import Config
from afcore.errors import ConfigError
from afcore.freezing.none import NoFreezing
from afcore.launch.launcher import as_worker, check_devices
from afcore.measuring.profile import measure_profile
from afcore.planning.alternatives import EpochAlternatives, weigh_workers
from afcore.planning.forecast import (
    BoundaryForecast,
    Resources,
    RunForecast,
    RunWork,
    forecast_boundaries,
    forecast_run,
)
from afcore.planning.timing import Profile
from afcore.prices import resolve_prices
from afcore.results.traces import load_recorded, recorded_trace
from afcore.runs.cache import RunCache
from afcore.runs.run import Run, identify_run
from afcore.runs.work import device_memory, epoch_work, place_set, resources_of
from afcore.storage.objects import Storage

__all__ = ["PlanReport", "load_trace", "preview_run"]

_BUDGET_SECONDS = 6.0


class PlanReport(BaseModel):
    """``autofreeze plan``: predicted, not measured.

    Attributes:
        model: ``model.name``.
        num_blocks: L.
        train_examples: without those held out.
        epochs: of the training.
        profile: what was measured.
        boundaries: an epoch at each boundary.
        workers: an epoch at each boundary by number of workers; empty where there is but one.
        runs: each mode, at both ends of what the policy may decide (mode ``full`` alone, where it
            does not know them), and along a given trace.
        notes: what a reader should know.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    num_blocks: int
    train_examples: int
    epochs: int
    profile: Profile
    boundaries: list[BoundaryForecast]
    workers: list[EpochAlternatives]
    runs: list[RunForecast]
    notes: list[str]


def preview_run(
    config: Config,
    modes: list[str],
    recorded: list[list[int]] | None = None,
) -> PlanReport:
    """Profile, and predict each mode.

    Args:
        config: of the training; its mode does not matter.
        modes: to predict.
        recorded: a trace to follow beside the two ends.

    Raises:
        UserError: for data, a model, a store or settings that cannot be used.
    """
    check_devices(config.workers, config.store)
    storage = Storage(config.store)
    storage.check()
    config = config.replace(mode="cached" if set(modes) - {"full"} else "full")
    run = Run(storage, identify_run(config, storage))
    split, data = run.pretrained(), run.data()
    if recorded is not None:
        _check_trace(recorded, split.num_blocks, config)
    cache = RunCache(run, split, data.train, run.compute)
    with as_worker(config.workers):
        profile = measure_profile(
            run, split, data.train, run.compute, cache.runner, budget_seconds=_BUDGET_SECONDS
        )
    work = RunWork(
        epoch=(epoch := epoch_work(run, data.train, cache.runner, 1)),
        reading=place_set(run, epoch.set_bytes),
        validation_tokens=len(data.validation.tokens),
        test_tokens=len(data.test.tokens) if data.test else 0,
        statistics=config.freezing.keeps_statistics,
        existing=[k for k in range(split.num_blocks) if cache.has(k, run.record.weights)],
    )
    prices = resolve_prices(config.prices)
    resources = resources_of(config, device_memory(run, split))
    several = resources.max_workers > 1
    caches = cache.allowed and config.cache.mode != "off"
    return PlanReport(
        model=config.model.name,
        num_blocks=split.num_blocks,
        train_examples=len(data.train),
        epochs=config.training.num_epochs,
        profile=profile,
        boundaries=forecast_boundaries(profile, work),
        workers=weigh_workers(profile, work, resources, prices, caches=caches) if several else [],
        runs=_forecasts(config, modes, recorded, profile, work, resources, cache.allowed),
        notes=_notes(run, work),
    )


def load_trace(path: Path) -> list[list[int]]:
    """The boundaries of a recorded run: of a comparison's, the first that froze.

    Raises:
        ConfigError: when the file is no report, or nothing in it froze.
    """
    return recorded_trace(load_recorded(path))


def _forecasts(
    config: Config,
    modes: list[str],
    recorded: list[list[int]] | None,
    profile: Profile,
    work: RunWork,
    resources: Resources,
    cacheable: bool,
) -> list[RunForecast]:
    freezing = config.freezing
    shape = profile.compute.num_blocks, config.training.num_epochs
    never = NoFreezing(intervals_per_epoch=freezing.intervals_per_epoch).possible_traces(*shape)
    decided = dict(freezing.possible_traces(*shape) or {})
    if recorded is not None:
        decided["as recorded"] = recorded
    return [
        forecast_run(
            profile,
            work,
            trace,
            mode=mode,
            case=case,
            cache_mode=config.cache.mode if cacheable else "off",
            prices=resolve_prices(config.prices),
            resources=resources,
        )
        for mode in modes
        for case, trace in (never if mode == "full" else decided).items()
    ]


def _notes(run: Run, work: RunWork) -> list[str]:
    notes = [
        "Predicted are training, cache building, checkpoints and evaluation; not what is around "
        "the epochs: loading, orchestration, tracking, publishing."
    ]
    policy, shape = run.config.freezing, (run.record.num_blocks, run.config.training.num_epochs)
    if run.config.mode != "full" and policy.possible_traces(*shape) is None:
        notes.append(
            f"There is no forecast for freezing.policy {policy.policy!r}: what it may "
            "decide is not known beforehand. Give the report of a run with --trace to follow its "
            "boundaries."
        )
    if run.record.uncacheable:
        notes.append(f"Nothing can be cached: {run.record.uncacheable}.")
    if work.existing:
        found = ", ".join(f"activations@{boundary}" for boundary in work.existing)
        notes.append(f"The store has {found} already.")
    return notes


def _check_trace(recorded: list[list[int]], num_blocks: int, config: Config) -> None:
    num_epochs = config.training.num_epochs
    if len(recorded) > num_epochs or (len(recorded) < num_epochs and not config.stops):
        raise ConfigError(
            f"--trace: has {len(recorded)} epochs, but training.epochs is {num_epochs}. Give a run "
            f"of as many, or plan for {len(recorded)}: --set training.epochs={len(recorded)}."
        )
    deepest = max(max(boundaries) for boundaries in recorded)
    if deepest >= num_blocks:
        raise ConfigError(
            f"--trace: has boundary {deepest}, but the model has {num_blocks} blocks, of which at "
            f"most {num_blocks - 1} can be frozen. Give the report of a run of this model."
        )
