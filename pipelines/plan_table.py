"""What ``autofreeze plan`` prints: an epoch at each boundary, and each mode's totals."""

from rich.table import Table

from afcore.planning.alternatives import EpochAlternatives
from afcore.preview import PlanReport
from pipelines.plan_figures import Choice

__all__ = ["boundary_table", "choices", "run_table", "workers_table"]


def boundary_table(plan: PlanReport) -> Table:
    """One row a boundary."""
    table = Table(
        title=f"Predicted epoch at each boundary, {plan.train_examples} examples",
        title_justify="left",
    )
    columns = (
        "frozen",
        "s computing",
        "s reading",
        "set MB",
        "s to build from tokens",
        "pays from",
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in plan.boundaries:
        table.add_row(
            f"{row.boundary} of {plan.num_blocks}",
            f"{row.compute_seconds:.1f}",
            _number(row.read_seconds),
            f"{row.set_bytes / 1e6:.1f}" if row.boundary else "-",
            _number(row.build_seconds),
            _pays_from(row.compute_seconds, row.read_seconds, row.build_seconds),
        )
    return table


def workers_table(plan: PlanReport) -> Table:
    """One row a boundary, one column a number of workers, and what the modes choose."""
    table = Table(
        title="Predicted epoch by number of workers, seconds and US$ (without building a set)",
        title_justify="left",
    )
    table.add_column("frozen", justify="right", no_wrap=True)
    for one in plan.workers[0].alternatives:
        table.add_column(f"{one.num_workers}", justify="right", no_wrap=True)
    for mode in plan.workers[0].chosen:
        table.add_column(mode, justify="right", no_wrap=True)
    for row in plan.workers:
        cells = [
            f"{one.seconds:.1f} s {one.cost_usd:.4f}{'' if one.fits else ' (!)'}"
            for one in row.alternatives
        ]
        chosen = [str(count) for count in row.chosen.values()]
        table.add_row(_boundary(row, plan.num_blocks), *cells, *chosen)
    return table


def choices(plan: PlanReport) -> list[Choice]:
    """For a figure: the first boundary, the middle one and the last."""
    at = sorted({0, plan.num_blocks // 2, plan.num_blocks - 1} & set(range(len(plan.workers))))
    return [
        Choice(
            name=_boundary(row, plan.num_blocks),
            labels=[str(one.num_workers) for one in row.alternatives],
            seconds=[one.seconds for one in row.alternatives],
            cost_usd=[one.cost_usd for one in row.alternatives],
            chosen={mode: str(count) for mode, count in row.chosen.items()},
        )
        for row in (plan.workers[number] for number in at)
    ]


def _boundary(row: EpochAlternatives, num_blocks: int) -> str:
    source = "a set" if row.read_boundary else "tokens"
    return f"{row.boundary} of {num_blocks}, from {source}"


def run_table(plan: PlanReport) -> Table:
    """One row a mode and case."""
    table = Table(title=f"Predicted totals of {plan.epochs} epochs", title_justify="left")
    columns = ("mode", "if", "train s", "cache s", "other s", "total s", "boundary", "reads at")
    for column in (*columns, "workers", "cached MB", "US$"):
        table.add_column(column, justify="left" if column in columns[:2] else "right", no_wrap=True)
    for run in plan.runs:
        reads = [str(epoch.read_boundary) for epoch in run.epochs if epoch.read_boundary]
        table.add_row(
            run.mode,
            run.case + ("" if run.feasible else " (not within what is allowed)"),
            f"{run.train_seconds:.1f}",
            f"{run.materialize_seconds:.1f}",
            f"{run.other_seconds:.1f}",
            f"{run.seconds:.1f}",
            f"{run.epochs[-1].boundary_end} of {plan.num_blocks}",
            ", ".join(dict.fromkeys(reads)) or "-",
            _workers([epoch.num_workers for epoch in run.epochs]),
            f"{run.activation_bytes_written / 1e6:.1f}",
            f"{run.cost_usd:.4f}",
        )
    return table


def _workers(counts: list[int]) -> str:
    """By epoch, if they differ."""
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _pays_from(compute: float, read: float | None, build: float | None) -> str:
    """Epochs that must read a set before it is cheaper than computing."""
    if read is None or build is None:
        return "-"
    if read >= compute:
        return "never"
    epochs = int(build / (compute - read)) + 1
    return f"{epochs} epoch" + "s" * (epochs > 1)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
