"""Pictures of a run and of a comparison. No I/O."""

import math
from collections.abc import Iterable

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from afcore.results.classes import frequent_confusions, worst_classes
from afcore.results.report import ClassesReport, CompareReport, RunReport

__all__ = [
    "MODE_COLORS",
    "TIME_PARTS",
    "accuracy_cost_figure",
    "confusion_figure",
    "course_figure",
    "epoch_time_figure",
    "freezing_figure",
    "from_zero",
]

MODE_COLORS = {
    "full": "#4c566a",
    "freeze": "#5e81ac",
    "cached": "#bf616a",
    "performance": "#a3be8c",
    "efficiency": "#b48ead",
    "hf_trainer": "#d08770",
    "hf_trainer_grouped": "#ebcb8b",
    "hf_trainer_early": "#8fbcbb",
    "hf_trainer_lora": "#88c0d0",
}
_CONFUSION_CLASSES = 20
_NAME_CHARACTERS = 24
TIME_PARTS = {
    "prefix_seconds": ("frozen prefix", "#88c0d0"),
    "suffix_seconds": ("suffix (trained)", "#5e81ac"),
    "read_seconds": ("reading", "#a3be8c"),
    "materialize_seconds": ("cache building", "#ebcb8b"),
    "checkpoint_seconds": ("checkpoint", "#d08770"),
    "evaluate_seconds": ("evaluation", "#b48ead"),
}


def freezing_figure(report: RunReport) -> Figure:
    """Boundary over steps, over a heat map of every decision's eta."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    steps = [decision.step for decision in report.decisions]
    eta = np.array(
        [[math.nan if x is None else x for x in decision.eta] for decision in report.decisions]
    )
    if len(steps) and np.isfinite(eta).any():
        before = max(0, 2 * steps[0] - steps[1]) if len(steps) > 1 else 0
        edges = np.array([before, *steps])
        image = axes.pcolormesh(
            edges,
            np.arange(report.num_blocks + 1),
            np.ma.masked_invalid(eta.T),
            cmap="viridis",
            norm=mpl.colors.LogNorm(*_limits(eta)),
        )
        figure.colorbar(image, ax=axes, label=f"{report.eta_label} (log scale)")
    last = sum(epoch.num_steps for epoch in report.epochs)
    at = [0, *(decision.step for decision in report.decisions), last]
    start = report.epochs[0].boundary_start
    boundary = [start, *(decision.boundary_after for decision in report.decisions)]
    axes.stairs(boundary, at, baseline=None, color="#bf616a", linewidth=2.5, label="boundary")
    axes.set(
        xlabel="step",
        ylabel="block (frozen below the line)",
        xlim=(0, last),
        ylim=(-0.1, report.num_blocks + 0.1),
        title=f"What froze, and when: {report.mode}, seed {report.seed}",
    )
    axes.legend(loc="lower right")
    return figure


def course_figure(report: RunReport) -> Figure:
    """Validation score and boundary after each epoch, over the seconds spent until then."""
    main, epochs = report.main, report.epochs
    factor, unit = (100, ", %") if main.in_percent else (1, "")
    ends = np.cumsum([epoch.seconds for epoch in epochs])
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    below = axes.twinx()
    below.stairs(
        [epoch.boundary_start for epoch in epochs],
        [0.0, *ends],
        fill=True,
        color="#88c0d0",
        alpha=0.4,
        label="boundary",
    )
    below.set(ylabel="frozen blocks", ylim=(0, report.num_blocks))
    below.yaxis.set_major_locator(MaxNLocator(integer=True))
    scores = [factor * epoch.validation[main.name] for epoch in epochs]
    axes.plot(ends, scores, "o-", color="#bf616a", label=f"validation {main.title}")
    best = report.totals.best_epoch
    axes.plot(ends[best - 1], scores[best - 1], "*", color="#bf616a", markersize=16, label="best")
    axes.set(
        xlabel="seconds, a point an epoch",
        ylabel=f"validation {main.title}{unit}",
        title=f"{report.mode}, {report.policy or 'nothing frozen'}: score and boundary",
    )
    axes.set_xlim(left=0)
    axes.set_zorder(below.get_zorder() + 1)  # the line over the area
    axes.patch.set_visible(False)
    axes.grid(alpha=0.3)
    handles = [*axes.get_legend_handles_labels()[0], *below.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="lower right")
    return figure


def epoch_time_figure(report: RunReport) -> Figure:
    """Seconds of each epoch, split into what they were spent on."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    names = [f"{epoch.epoch}\n{epoch.read_from}" for epoch in report.epochs]
    bottom = np.zeros(len(names))
    for field, (label, color) in TIME_PARTS.items():
        seconds = np.array([getattr(epoch, field) for epoch in report.epochs])
        axes.bar(names, seconds, bottom=bottom, label=label, color=color)
        bottom += seconds
    axes.set(
        xlabel="epoch, and where it read from",
        ylabel="seconds",
        title=f"Where the time went: {report.mode}, seed {report.seed}",
    )
    axes.legend(loc="upper right")
    axes.margins(y=0.3)
    axes.set_ylim(bottom=0)
    return figure


def from_zero(values: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis that begins at 0 and has room for a point at the largest value."""
    return 0.0, 1.1 * max(values) or 1.0


def accuracy_cost_figure(report: CompareReport) -> Figure:
    """Test (else validation) score against dollars and against seconds, a point a run."""
    main = report.runs[0].main
    factor, unit = (100, ", %") if main.in_percent else (1, "")
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (field, label) in zip(
        figure.subplots(1, 2, sharey=True),
        (("cost_usd", "cost, US dollars"), ("wall_seconds", "wall seconds")),
        strict=True,
    ):
        for mode in dict.fromkeys(run.mode for run in report.runs):
            runs = [run for run in report.runs if run.mode == mode]
            axes.scatter(
                [getattr(run.totals, field) for run in runs],
                [factor * run.main_score for run in runs],
                label=mode,
                color=MODE_COLORS.get(mode),
                s=60,
            )
        xlim = from_zero(getattr(run.totals, field) for run in report.runs)
        axes.set(xlabel=label, ylabel=f"{main.title}{unit}", xlim=xlim)
        axes.margins(y=0.4)
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def confusion_figure(report: ClassesReport, name: str) -> Figure:
    """The confusion matrix of the test set, in shares of each class's rows.

    Of many classes, those that the most frequent confusions are between, and the worst ones.

    Args:
        report: of the classes.
        name: of the run.
    """
    names = [one.name for one in report.classes]
    title = f"What was taken for what: {name}"
    if len(names) > _CONFUSION_CLASSES:
        chosen: dict[str, None] = {}
        for true, answer, _ in frequent_confusions(report, _CONFUSION_CLASSES // 2):
            chosen |= {true: None, answer: None}
        chosen |= {one.name: None for one in worst_classes(report, _CONFUSION_CLASSES)}
        shown = set(list(chosen)[:_CONFUSION_CLASSES])
        title += f"\n{len(shown)} of {len(names)} classes: the most confused and the worst"
        names = [one for one in names if one in shown]
    counts = np.array(
        [[report.confusion.get(true, {}).get(answer, 0) for answer in names] for true in names]
    )
    support = {one.name: one.support for one in report.classes}
    rows = np.array([support[one] for one in names])
    shares = counts / np.maximum(rows, 1)[:, None]
    side = 3.0 + 0.42 * len(names)
    figure = Figure(figsize=(side + 1.2, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=8)
    short = [_shortened(one) for one in names]
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", parse_math=False)
    labels = [f"{one} ({count})" for one, count in zip(short, rows, strict=True)]
    axes.set_yticks(range(len(names)), labels, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class (rows)")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="share of the class's rows", shrink=0.8)
    return figure


def _shortened(name: str) -> str:
    """In the middle: names of classes often begin alike."""
    half = _NAME_CHARACTERS // 2
    return name if len(name) <= 2 * half else f"{name[:half]}…{name[1 - half :]}"


def _limits(eta: np.ndarray) -> tuple[float, float]:
    positive = eta[np.isfinite(eta) & (eta > 0)]
    if not positive.size:
        return 1e-3, 1.0
    return float(positive.min()), float(max(positive.max(), positive.min() * 1.01))
