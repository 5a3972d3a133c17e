"""What ``autofreeze plan`` prints: an epoch at each boundary, and each mode's totals."""

from rich.table import Table

from afcore.preview import PlanReport

__all__ = ["boundary_table", "run_table"]


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


def run_table(plan: PlanReport) -> Table:
    """One row a mode and case."""
    table = Table(title=f"Predicted totals of {plan.epochs} epochs", title_justify="left")
    columns = ("mode", "if", "train s", "cache s", "other s", "total s", "boundary", "reads at")
    for column in (*columns, "cached MB", "US$"):
        table.add_column(column, justify="left" if column in columns[:2] else "right", no_wrap=True)
    for run in plan.runs:
        reads = [str(epoch.read_boundary) for epoch in run.epochs if epoch.read_boundary]
        table.add_row(
            run.mode,
            run.case,
            f"{run.train_seconds:.1f}",
            f"{run.materialize_seconds:.1f}",
            f"{run.other_seconds:.1f}",
            f"{run.seconds:.1f}",
            f"{run.epochs[-1].boundary_end} of {plan.num_blocks}",
            ", ".join(dict.fromkeys(reads)) or "-",
            f"{run.activation_bytes_written / 1e6:.1f}",
            f"{run.cost_usd:.4f}",
        )
    return table


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
