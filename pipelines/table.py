"""The table people read: one row a run, the same columns on the console and in MLflow."""

from rich.table import Table

from afcore.report import CompareReport, RunReport

__all__ = ["comparison_markdown", "comparison_table"]

COLUMNS = (
    "mode",
    "seed",
    "validation",
    "test",
    "train s",
    "cache s",
    "evaluate s",
    "wall s",
    "speed-up",
    "wall speed-up",
    "boundary",
    "cached MB",
    "US$",
)


def comparison_table(comparison: CompareReport) -> Table:
    """For the console."""
    table = Table(title="Accuracy, time and cost", title_justify="left")
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in _rows(comparison):
        table.add_row(*row)
    return table


def comparison_markdown(comparison: CompareReport) -> str:
    """For an artifact."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *_rows(comparison)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _rows(comparison: CompareReport) -> list[tuple[str, ...]]:
    full = {run.seed: run for run in comparison.runs if run.mode == "full"}
    return [_row(run, full.get(run.seed)) for run in comparison.runs]


def _row(run: RunReport, full: RunReport | None) -> tuple[str, ...]:
    totals = run.totals
    return (
        run.mode,
        str(run.seed),
        _percent(totals.validation),
        _percent(totals.test),
        f"{totals.train_seconds:.1f}",
        f"{totals.materialize_seconds:.1f}",
        f"{totals.evaluate_seconds:.1f}",
        f"{totals.wall_seconds:.1f}",
        f"{full.paid_seconds / run.paid_seconds:.2f}x" if full else "-",
        f"{full.totals.wall_seconds / totals.wall_seconds:.2f}x" if full else "-",
        f"{run.epochs[-1].boundary_end} of {run.num_blocks}",
        f"{totals.activation_bytes_written / 1e6:.1f}",
        f"{totals.cost_usd:.4f}",
    )


def _percent(scores: dict[str, float] | None) -> str:
    return f"{100 * scores['accuracy']:.2f} %" if scores else "-"
