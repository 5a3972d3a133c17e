"""The table people read: one row a run, the same columns on the console and in MLflow.

What is taken over seeds stands in every row of its mode.
"""

import statistics

from rich.markup import escape
from rich.table import Table

from afcore.config import FREEZING_MODES
from afcore.results.classes import frequent_confusions, worst_classes
from afcore.results.comparison import row_difference
from afcore.results.markdown import markdown_table
from afcore.results.report import (
    ClassesReport,
    ClassReport,
    CompareReport,
    DifferenceReport,
    RunReport,
)
from afcore.tasks.scores import Score
from pipelines.tables import table

__all__ = ["classes_table", "comparison_markdown", "comparison_table", "stories"]

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
MANY_CLASSES = 20
"""More are not shown one by one."""
MATRIX_CLASSES = 12
"""The confusion matrix of more is not shown as one."""
MOST_CONFUSED = 10
WORKERS = "workers"
"""A column of its own where an epoch had more than one: the number in each epoch."""


def comparison_table(comparison: CompareReport) -> Table:
    """For the console."""
    title = comparison.runs[0].main.title
    headline = f"{title[0].upper()}{title[1:]}, time and cost"
    shown = table(headline, _columns(comparison), _rows(comparison), left=1)
    shown.caption = _caption(comparison)
    return shown


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
    main = run.main
    mean, low, high = (_signed(main, value, 1) for value in (found.mean, found.low, found.high))
    return f" at {mean} {_unit(main)} ({low} to {high} over test rows)"


def comparison_markdown(comparison: CompareReport) -> str:
    """For an artifact."""
    text = markdown_table(_columns(comparison), _rows(comparison)) + "\n"
    caption = _caption(comparison)
    text = f"{text}\n{caption}\n" if caption else text
    told = "\n\n".join(stories(comparison))
    return f"{text}\n{told}\n" if told else text


def _columns(comparison: CompareReport) -> tuple[str, ...]:
    columns = (*COLUMNS, WORKERS) if _several_workers(comparison) else COLUMNS
    return (*columns, DIFFERENCE) if comparison.difference else columns


def _caption(comparison: CompareReport) -> str | None:
    lines = [line for line in (_noise(comparison), _best(comparison)) if line]
    return "\n".join(lines) or None


def _best(comparison: CompareReport) -> str | None:
    if comparison.best_mode is None:
        return None
    main = comparison.runs[0].main
    runs = [run for run in comparison.runs if run.mode == comparison.best_mode]
    split = "test" if runs[0].totals.test else "validation"
    value = main.shown(statistics.mean(run.main_score for run in runs))
    seeds = f", mean of {len(runs)} seeds" if len(runs) > 1 else ""
    return f"best {split} {main.title}: {comparison.best_mode}, {value}{seeds}"


def _noise(comparison: CompareReport) -> str | None:
    if not comparison.difference:
        return None
    unit = _unit(comparison.runs[0].main)
    num_seeds = max(difference.num_seeds for difference in comparison.difference.values())
    if num_seeds == 1:
        return (
            f"{DIFFERENCE}: {unit}, on the same test rows, and the 95 % interval over them"
            f"{'' if comparison.runs[0].main.is_mean else ' (bootstrap)'}; within "
            "noise when it holds 0. Another seed may differ by as much: --seeds 3"
        )
    return (
        f"{DIFFERENCE}: {unit}, mean of {num_seeds} seeds, each minus full of the same seed, and "
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
        (*row, _points(comparison.runs[0].main, comparison.difference.get(run.mode)))
        for row, run in zip(rows, comparison.runs, strict=True)
    ]


def _several_workers(comparison: CompareReport) -> bool:
    return any(epoch.num_workers > 1 for run in comparison.runs for epoch in run.epochs)


def _row(run: RunReport, full: RunReport | None) -> tuple[str, ...]:
    totals = run.totals
    return (
        run.mode,
        str(run.seed),
        _shown(run, totals.validation),
        _shown(run, totals.test),
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


def _points(main: Score, difference: DifferenceReport | None) -> str:
    if difference is None:
        return "-"
    half = (difference.high - difference.low) / 2
    verdict = "within noise" if difference.within_noise else "beyond noise"
    mean, error = _signed(main, difference.mean), _signed(main, half).removeprefix("+")
    return f"{mean} ± {error}, {verdict}"


def _unit(main: Score) -> str:
    if main.name == "accuracy":
        return "points"
    return f"points of {main.title}" if main.in_percent else main.title


def _signed(main: Score, value: float, decimals: int = 2) -> str:
    """A difference: of percentages in points, of others with two decimals more."""
    return f"{100 * value:+.{decimals}f}" if main.in_percent else f"{value:+.{decimals + 2}f}"


def _shown(run: RunReport, scores: dict[str, float] | None) -> str:
    return run.main.shown(scores[run.score]) if scores else "-"


def classes_table(report: ClassesReport) -> Table:
    """The test set class by class, and what each was taken for; of many classes the worst."""
    many, wide = (len(report.classes) > most for most in (MANY_CLASSES, MATRIX_CLASSES))
    shown = worst_classes(report, MANY_CLASSES) if many else report.classes
    title = f"Test, the worst {len(shown)} of {len(report.classes)} classes" if many else "Test"
    numbers = {one.name: str(number) for number, one in enumerate(report.classes)}
    columns = ["class", "precision", "recall", "F1", "rows"]
    columns += [] if wide else [f"as {number}" for number in numbers.values()]
    rows = []
    for one in shown:
        answers = report.confusion.get(one.name, {})
        counts = [] if wide else [str(answers.get(answer, 0)) for answer in numbers]
        name = one.name if wide else f"{numbers[one.name]}  {one.name}"
        rows.append((name, *_class_cells(one), *counts))
    found = table(f"{title}, by class", columns, rows, left=1, wrapped=1)
    found.columns[0].overflow, found.columns[0].max_width = "fold", 40
    if wide:
        confused = frequent_confusions(report, MOST_CONFUSED)
        lines = [f"{n} of {escape(true)} as {escape(answer)}" for true, answer, n in confused]
        found.caption = "\n".join(["most frequent confusions:", *lines]) if lines else None
    return found


def _class_cells(one: ClassReport) -> tuple[str, ...]:
    shares = (one.precision, one.recall, one.f1)
    return *("-" if share is None else f"{100 * share:.2f} %" for share in shares), str(one.support)
