"""The table people read: one row a run, the same columns on the console and in MLflow.

What is taken over seeds stands in every row of its mode.
"""

from rich.table import Table

from afcore.config import FREEZING_MODES
from afcore.results.report import CompareReport, DifferenceReport, RunReport, row_difference

__all__ = ["comparison_markdown", "comparison_table", "stories"]

BASELINES = ("hf_trainer", "full")

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
DIFFERENCE = "test - full"
"""A column of its own where there are seeds to take it over."""
WORKERS = "workers"
"""A column of its own where an epoch had more than one: the number in each epoch."""


def comparison_table(comparison: CompareReport) -> Table:
    """For the console."""
    table = Table(title="Accuracy, time and cost", title_justify="left", caption_justify="left")
    table.caption = _caption(comparison)
    for number, column in enumerate(_columns(comparison)):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in _rows(comparison):
        table.add_row(*row)
    return table


def stories(comparison: CompareReport) -> list[str]:
    """A line for each run that freezes: what happened and why, and what it was worth.

    Against Hugging Face's Trainer where that was run too, and against ``full``.
    """
    told = [run for run in comparison.runs if run.mode in FREEZING_MODES and run.happened]
    return [_story(run, comparison) for run in told]


def _story(run: RunReport, comparison: CompareReport) -> str:
    several = len({other.seed for other in comparison.runs}) > 1
    name = f"{run.mode}, seed {run.seed}" if several else run.mode
    gains = [
        f"{other.paid_seconds / run.paid_seconds:.1f}x faster than {other.mode}"
        f"{_over_rows(run, other)}"
        for other in comparison.runs
        if other.seed == run.seed and other.mode in BASELINES
    ]
    return f"{name}: {run.happened}.{' ' if gains else ''}{', '.join(gains)}{'.' if gains else ''}"


def _over_rows(run: RunReport, other: RunReport) -> str:
    found = row_difference(run, other)
    if found is None:
        return ""
    mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
    return f" at {mean:+.1f} points ({low:+.1f} to {high:+.1f} over test rows)"


def comparison_markdown(comparison: CompareReport) -> str:
    """For an artifact."""
    columns = _columns(comparison)
    lines = [columns, tuple("---" for _ in columns), *_rows(comparison)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    caption = _caption(comparison)
    text = f"{text}\n{caption}\n" if caption else text
    told = "\n\n".join(stories(comparison))
    return f"{text}\n{told}\n" if told else text


def _columns(comparison: CompareReport) -> tuple[str, ...]:
    columns = (*COLUMNS, WORKERS) if _several_workers(comparison) else COLUMNS
    return (*columns, DIFFERENCE) if comparison.difference else columns


def _caption(comparison: CompareReport) -> str | None:
    if not comparison.difference:
        return None
    num_seeds = max(difference.num_seeds for difference in comparison.difference.values())
    if num_seeds == 1:
        return (
            f"{DIFFERENCE}: points, on the same test rows, and the 95 % interval over them; within "
            "noise when it holds 0. Another seed may differ by as much: --seeds 3"
        )
    return (
        f"{DIFFERENCE}: points, mean of {num_seeds} seeds, each minus full of the same seed, and "
        "the 95 % interval (Student's t); within noise when it holds 0"
    )


def _rows(comparison: CompareReport) -> list[tuple[str, ...]]:
    full = {run.seed: run for run in comparison.runs if run.mode == "full"}
    rows = [_row(run, full.get(run.seed)) for run in comparison.runs]
    if _several_workers(comparison):
        rows = [
            (*row, " ".join(str(epoch.num_workers) for epoch in run.epochs))
            for row, run in zip(rows, comparison.runs, strict=True)
        ]
    if not comparison.difference:
        return rows
    return [
        (*row, _points(comparison.difference.get(run.mode)))
        for row, run in zip(rows, comparison.runs, strict=True)
    ]


def _several_workers(comparison: CompareReport) -> bool:
    return any(epoch.num_workers > 1 for run in comparison.runs for epoch in run.epochs)


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


def _points(difference: DifferenceReport | None) -> str:
    if difference is None:
        return "-"
    half = (difference.high - difference.low) / 2
    verdict = "within noise" if difference.within_noise else "beyond noise"
    return f"{100 * difference.mean:+.2f} ± {100 * half:.2f}, {verdict}"


def _percent(scores: dict[str, float] | None) -> str:
    return f"{100 * scores['accuracy']:.2f} %" if scores else "-"
