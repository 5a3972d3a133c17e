"""What a training will take, measured before it is run: ``autofreeze plan``.

Data are prepared as a run would (and found by it later), the model is profiled on a few batches,
and nothing is trained.
"""

import torch
from pydantic import BaseModel, ConfigDict

from afcore.config import Config
from afcore.errors import ConfigError
from afcore.launch.launcher import as_worker, check_devices
from afcore.measuring.kept_bytes import kept_bytes
from afcore.memory import available_memory
from afcore.planning.profile import Profile
from afcore.planning.run_forecast import BoundaryForecast, RunForecast, forecast_boundaries
from afcore.runs.cache import RunCache
from afcore.runs.decide import possible_traces
from afcore.runs.device_room import memory_by_boundary
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
from afcore.storage.objects import Storage

__all__ = ["PlanReport", "preview_run"]

_BUDGET_SECONDS = 6.0


class PlanReport(BaseModel):
    """``autofreeze plan``: predicted, not measured.

    Attributes:
        model: ``model.name``.
        num_blocks: L.
        train_examples: without those held out.
        epochs: of the training.
        profile: what was measured.
        boundaries: an epoch at each boundary, and on each number of workers.
        memory_bytes: that a worker takes at each boundary, but for sets held in memory.
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
    memory_bytes: list[int] = []
    runs: list[RunForecast]
    notes: list[str]

    @property
    def weighs_workers(self) -> bool:
        """Whether there is more than one."""
        return bool(self.boundaries[0].workers)

    def boundary_text(self, row: BoundaryForecast) -> str:
        """A row of workers in words."""
        reads = next(iter(row.workers.values())).forecast.setup.read_boundary
        return f"{row.boundary} of {self.num_blocks}, from {'a set' if reads else 'tokens'}"


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
    if config.adapter is not None:
        raise ConfigError(
            "adapter: plan measures how long whole blocks train, and not their adapters. Leave the "
            "section out"
        )
    if config.model.quantization is not None:
        raise ConfigError(
            "model.quantization: plan measures every boundary, and quantized blocks cannot be "
            "trained. Leave it out: what it changes is the memory of frozen blocks"
        )
    check_devices(config.workers, config.store)
    storage = Storage(config.store)
    storage.check()
    config = config.replace(mode="cached" if set(modes) - {"full"} else "full")
    run = Run(storage, identify_run(config, storage))
    split, data = run.pretrained(), run.data()
    if recorded is not None:
        _check_trace(recorded, split.num_blocks, config)
    cache = RunCache(run, run.trainee(split, data.train))
    planner = cache.planner
    with as_worker(config.workers):
        profile = planner.measure(_BUDGET_SECONDS, budget_share=None, record=False)
    existing = [k for k in range(split.num_blocks) if cache.has(k, run.record.weights)]
    at, runs = planner.start(0), []
    for mode in modes:
        traces = possible_traces(config.replace(mode=mode), split.num_blocks) or {}
        if recorded is not None and mode != "full":
            traces = {**traces, "as recorded": recorded}
        runs += planner.forecasts(traces, mode, at, existing)
    kept = kept_bytes(cache.trainee, checkpoints=config.training.gradient_checkpointing)
    memory = memory_by_boundary(
        run, profile.compute.num_parameters, kept, int(data.validation.lengths.sum())
    )
    return PlanReport(
        model=config.model.name,
        num_blocks=split.num_blocks,
        train_examples=data.num_train_rows,
        epochs=config.training.num_epochs,
        profile=profile,
        boundaries=forecast_boundaries(profile, planner.work(1), planner.allowed),
        memory_bytes=memory,
        runs=runs,
        notes=[*_notes(run, existing), *_memory_notes(run, memory)],
    )


def _notes(run: Run, existing: list[int]) -> list[str]:
    notes = [
        "Predicted are training, cache building, checkpoints and evaluation; not what is around "
        "the epochs: loading, orchestration, tracking, publishing."
    ]
    if possible_traces(run.config, run.record.num_blocks) is None:
        notes.append(
            f"There is no forecast for freezing.policy {run.config.freezing.policy!r}: what it may "
            "decide is not known beforehand. Give the report of a run with --trace to follow its "
            "boundaries."
        )
    if run.record.uncacheable:
        notes.append(f"Nothing can be cached: {run.record.uncacheable}.")
    if existing:
        found = ", ".join(f"activations@{boundary}" for boundary in existing)
        notes.append(f"The store has {found} already.")
    return notes


def _memory_notes(run: Run, memory: list[int]) -> list[str]:
    """What the column of memory counts, and whether there is as much."""
    on_cpu = run.compute.device.type == "cpu"
    what = "with the process itself" if on_cpu else "of the GPU"
    notes = [
        f"Memory is that of a worker while it trains, {what}; activation sets that are held there "
        "come on top, within cache.host_bytes and cache.device_bytes."
    ]
    free = available_memory() if on_cpu else torch.cuda.mem_get_info(run.compute.device)[0]
    workers = run.config.workers.max if on_cpu else 1
    if memory[0] * workers > free:
        notes.append(
            f"{memory[0] * workers / 1e9:.1f} GB are needed while nothing is frozen, and "
            f"{free / 1e9:.1f} GB are free here. Lower data.max_length, workers.micro_batch or "
            "training.batch_size, or set training.gradient_checkpointing."
        )
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
