"""``autofreeze show``: what a run has done, epoch by epoch, what comes next, and why."""

import json
import math
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from afcore.config import load_config
from afcore.errors import ConfigError
from afcore.freezing.policy import Interval
from afcore.runs.show import EpochStatus, RunStatus, find_status
from afcore.storage.objects import Storage
from afcore.tasks.scores import LOG_LOSS
from pipelines.cli.consoles import say
from pipelines.tables import ALL, table

__all__ = ["epochs_table", "find_run_status", "intervals_table", "print_status"]


def find_run_status(
    wanted: str, overrides: list[str], store: str | None, default_store: str
) -> RunStatus:
    """Of a configuration's file, or a run's id.

    Raises:
        UserError: when there is none, or the configuration cannot be read.
    """
    is_config = wanted.endswith((".yaml", ".yml")) or Path(wanted).is_file()
    if overrides and not is_config:
        raise ConfigError(
            f"--set {overrides[0]!r} changes a configuration, and {wanted!r} is no file, but taken "
            "for a run's id. Leave --set out, or give the YAML file"
        )
    config = load_config(wanted, overrides) if is_config else None
    root = store or (config.store if config else default_store)
    return find_status(Storage(root), config or wanted)


def print_status(status: RunStatus, console: Console, why: bool) -> None:
    """As text and tables."""
    tell = partial(say, to=console)
    tell(_headline(status))
    console.print(epochs_table(status))
    tell(f"next: {status.next_step}")
    for uri in status.damaged:
        tell(f"cannot be read: {uri}")
    if why:
        for epoch in status.epochs:
            for line in _reasons(epoch):
                tell(line)
        if _intervals(status):
            console.print(intervals_table(status))
        for line in _ending(status):
            tell(line)
    tell(f"records: {status.folder}")
    for epoch in status.epochs:
        if epoch.reads is not None:
            tell(f"set of epoch {epoch.epoch}: {epoch.reads.folder} ({epoch.reads.state})")
    if status.tracked is not None:
        tracked = status.tracked
        where = f"experiment {tracked.experiment!r} of {tracked.uri}"
        tell(f"MLflow: run {tracked.mlflow_run_id} in {where}")


def _headline(status: RunStatus) -> str:
    what = f"run {status.run_id}: {status.state}, {status.attempts} attempts"
    if status.worker:
        what += f", the last by {status.worker}"
    if status.record is None:
        return what
    config = status.record.config
    policy = f", policy {config.freezing.policy}" if config.freezes else ""
    return f"{what}\n{config.model.name}, mode {config.mode}, seed {config.training.seed}{policy}"


def epochs_table(status: RunStatus) -> Table:
    """One row an epoch."""
    record = status.record
    main = record.config.main_score if record else LOG_LOSS
    columns = ["epoch", "committed", "reads", "set", "workers", "boundary", "steps", "train s"]
    columns += ["loss", f"validation {main.title}"]
    rows = []
    for epoch in status.epochs:
        state, report = epoch.state, epoch.report
        trained = state.trained if state else None
        row = (
            str(epoch.epoch),
            ", ".join(epoch.committed) or "-",
            epoch.plan.source if epoch.plan else "-",
            epoch.reads.state if epoch.reads else "-",
            str(report.num_workers if report else epoch.plan.num_workers if epoch.plan else "-"),
            f"{state.boundary_start} -> {state.freeze.boundary}" if state else "-",
            str(len(trained.steps)) if trained else "-",
            f"{trained.train_seconds:.1f}" if trained else "-",
            f"{trained.mean_loss:.4f}" if trained else "-",
            main.shown(report.validation[main.name]) if report else "-",
        )
        rows.append(row)
    return table(None, columns, rows, left=4, wrapped=ALL)


def _reasons(epoch: EpochStatus) -> list[str]:
    """Why it reads what it reads, and has the workers that it has."""
    plan = epoch.plan
    if plan is None:
        return []
    return [f"epoch {epoch.epoch} reads {plan.source}: {why}" for why in plan.reasons()]


def intervals_table(status: RunStatus) -> Table:
    """One row an interval: what the policy looked at, and what it decided."""
    found = _intervals(status)
    names = ["epoch", "step", "train loss", "validation loss", "boundary"]
    if compares := any(not math.isnan(n) for one in found for n in _compared(one)):
        num_blocks = max(len(one.statistics.gradient_norms) for one in found)
        names += ["threshold", *map(str, range(num_blocks))]
    config = status.record.config if status.record else None
    label = config.freezing.eta_label if config else "eta"
    title = f"Decisions; {label}, by block" if compares else "Decisions"
    rows = [
        [*_interval_cells(one), *(map(_number, _compared(one)) if compares else ())]
        for one in found
    ]
    return table(title, names, rows)


def _compared(one: Interval) -> tuple[float, ...]:
    """The threshold and eta of each block; none where nothing was decided."""
    decision = one.decision
    if decision is None:
        return (math.nan,) * (1 + len(one.statistics.gradient_norms))
    return (decision.threshold, *decision.eta)


def _intervals(status: RunStatus) -> list[Interval]:
    states = [epoch.state for epoch in status.epochs if epoch.state is not None]
    return [interval for state in states for interval in state.trained.intervals]


def _interval_cells(one: Interval) -> list[str]:
    seen, decision = one.statistics, one.decision
    losses = seen.validation_losses
    cells = [
        str(seen.epoch),
        str(seen.step),
        f"{seen.train_loss:.4f} ± {seen.train_loss_error:.4f}",
        f"{losses[-1]:.4f}" if losses else "-",
    ]
    if decision is None:
        return [*cells, "-"]
    return [*cells, f"{decision.boundary_before} -> {decision.boundary_after}"]


def _ending(status: RunStatus) -> list[str]:
    """What the policy remembers, and whether it found that training has settled."""
    states = [epoch.state for epoch in status.epochs if epoch.state is not None]
    if not states:
        return []
    freeze, lines = states[-1].freeze, []
    if freeze.memory:
        lines.append(f"the policy remembers: {json.dumps(freeze.memory)}")
    if freeze.settled:
        lines.append(
            f"settled after epoch {states[-1].epoch}: by the validation loss, more epochs would "
            "gain too little"
        )
    if status.report is not None:
        lines.append(f"in all: {status.report.happened}")
    return lines


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
