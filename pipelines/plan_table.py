"""What ``autofreeze plan`` prints: an epoch at each boundary, and each mode's totals."""

from rich.table import Table

from afcore.planning.run_forecast import BoundaryForecast
from afcore.preview import PlanReport
from pipelines.tables import table

__all__ = ["boundary_table", "run_table", "workers_table"]


def boundary_table(plan: PlanReport) -> Table:
    """One row a boundary."""
    columns = ["frozen", "s computing", "s reading", "set MB", "s to build from tokens"]
    columns += ["pays from", *(["GB memory"] if plan.memory_bytes else [])]
    rows = []
    for row in plan.boundaries:
        memory = [f"{taken / 1e9:.1f}" for taken in plan.memory_bytes[row.boundary :][:1]]
        cells = ["-"] * 4
        if row.read is not None:
            cells = [
                f"{row.read.train_seconds:.1f}",
                f"{row.read.activation_bytes_written / 1e6:.1f}",
                f"{row.read.materialize_seconds:.1f}",
                _pays_from(row),
            ]
        seconds = f"{row.computed.train_seconds:.1f}"
        rows.append([f"{row.boundary} of {plan.num_blocks}", seconds, *cells, *memory])
    title = f"Predicted epoch at each boundary, {plan.train_examples} examples"
    return table(title, columns, rows)


def workers_table(plan: PlanReport) -> Table:
    """One row a boundary, one column a number of workers, and what the modes choose."""
    (first, *_), modes = plan.boundaries[0].workers.values(), list(plan.boundaries[0].workers)
    counts = [str(one.setup.num_workers) for one in first.alternatives]
    rows = []
    for row in plan.boundaries:
        choices = list(row.workers.values())
        cells = [
            f"{one.seconds:.1f} s {one.cost_usd:.4f}{'' if one.setup.fits else ' (!)'}"
            for one in choices[0].alternatives
        ]
        chosen = [str(choice.num_workers) for choice in choices]
        rows.append([plan.boundary_text(row), *cells, *chosen])
    title = "Predicted epoch by number of workers, seconds and US$ (without building a set)"
    return table(title, ["frozen", *counts, *modes], rows)


def run_table(plan: PlanReport) -> Table:
    """One row a mode and case."""
    columns = ["mode", "if", "train s", "cache s", "other s", "total s", "boundary", "reads at"]
    columns += ["workers", "cached MB", "US$"]
    rows = []
    for run in plan.runs:
        setups = [epoch.setup for epoch in run.epochs]
        reads = [str(setup.read_boundary) for setup in setups if setup.read_boundary]
        row = (
            run.mode,
            run.case + ("" if run.feasible else " (not within what is allowed)"),
            f"{run.train_seconds:.1f}",
            f"{run.materialize_seconds:.1f}",
            f"{run.other_seconds:.1f}",
            f"{run.seconds:.1f}",
            f"{setups[-1].boundaries[-1]} of {plan.num_blocks}",
            ", ".join(dict.fromkeys(reads)) or "-",
            _workers([setup.num_workers for setup in setups]),
            f"{run.activation_bytes_written / 1e6:.1f}",
            f"{run.cost_usd:.4f}",
        )
        rows.append(row)
    return table(f"Predicted totals of {plan.epochs} epochs", columns, rows, left=2)


def _workers(counts: list[int]) -> str:
    """By epoch, if they differ."""
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _pays_from(row: BoundaryForecast) -> str:
    """Epochs that must read a set before it is cheaper than computing."""
    if row.read is None or row.read.train_seconds >= row.computed.train_seconds:
        return "never"
    saved = row.computed.train_seconds - row.read.train_seconds
    epochs = int(row.read.materialize_seconds / saved) + 1
    return f"{epochs} epoch" + "s" * (epochs > 1)
