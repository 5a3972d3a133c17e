"""Pictures of the report's page, as SVG that needs nothing from anywhere."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from afcore.results.figures import MODE_COLORS, TIME_PARTS, from_zero
from afcore.results.report import RunReport

__all__ = [
    "boundary_svg",
    "epoch_seconds_svg",
    "predicted_svg",
    "score_cost_svg",
    "tier_bytes_svg",
]

_INK, _MUTED, _ACCENT, _FILL = "#2e3440", "#7b8494", "#bf616a", "#d8e1ec"
_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": "#c5ccd6",
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "text.color": _INK,
    "grid.color": "#e8ecf1",
    "legend.frameon": False,
    "svg.hashsalt": "autofreeze",
}
_TIERS = {
    "device memory": "#4c566a",
    "host memory": "#5e81ac",
    "local disk": "#88c0d0",
    "object store": "#d8dee9",
}
_WIDTH, _HALF_WIDTH = 7.2, 4.7


def score_cost_svg(reports: Sequence[RunReport]) -> str:
    """Score against seconds and against dollars, a point a run, named."""
    main = reports[0].main
    factor, unit = (100, ", %") if main.in_percent else (1, "")

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (name, label) in zip(
            panels, (("wall_seconds", "seconds"), ("cost_usd", "US dollars")), strict=True
        ):
            for report in reports:
                x, y = getattr(report.totals, name), factor * report.main_score
                color = MODE_COLORS.get(report.mode, _INK)
                axes.scatter([x], [y], s=90, color=color, edgecolor="white", label=report.mode)
            axes.set(xlabel=label, xlim=from_zero(getattr(one.totals, name) for one in reports))
            axes.margins(y=0.25)
            axes.grid()
        panels[0].set_ylabel(f"{main.title}{unit}")
        handles, labels = panels[0].get_legend_handles_labels()
        one_each = dict(zip(labels, handles, strict=True))
        figure.legend(one_each.values(), one_each.keys(), loc="outside upper left", ncols=6)

    return _svg(draw, _WIDTH, 2.8)


def boundary_svg(report: RunReport) -> str:
    """Frozen blocks over the steps, above the statistic from which that was decided."""

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.1))
        ends = np.cumsum([epoch.num_steps for epoch in report.epochs])
        _draw_boundary(above, report, int(ends[-1]))
        if any(math.isfinite(x or math.nan) for one in report.decisions for x in one.eta):
            _draw_eta(below, report)
        else:
            _draw_losses(below, report, ends)
        above.margins(y=0.02)
        for axes in (above, below):
            axes.grid(axis="y")
            for end in ends[:-1]:
                axes.axvline(end, color="#c5ccd6", linewidth=0.8, linestyle=(0, (2, 3)))
        below.set(xlabel="step (dotted: an epoch ends)", xlim=(0, ends[-1]))

    return _svg(draw, _WIDTH, 3.5)


def epoch_seconds_svg(report: RunReport) -> str:
    """Each epoch's seconds by what they went into."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.invert_yaxis()  # the first epoch on top
        rows = _rows(report)
        left = np.zeros(len(rows))
        for field, (label, color) in TIME_PARTS.items():
            seconds = np.array([getattr(epoch, field) for epoch in report.epochs])
            if seconds.sum() > 0:
                axes.barh(rows, seconds, 0.62, left=left, label=label, color=color)
                left += seconds
        for row, total in enumerate(left):
            _name_bar(axes, row, total, f"{total:.1f} s")
        _finish_bars(figure, axes, "seconds")

    return _svg(draw, _HALF_WIDTH, _bar_height(report))


def tier_bytes_svg(report: RunReport) -> str | None:
    """Where each epoch held the set that it read; None where none read one."""
    if not any(epoch.tier_bytes for epoch in report.epochs):
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.invert_yaxis()  # the first epoch on top
        rows = _rows(report)
        left = np.zeros(len(rows))
        known = {name for epoch in report.epochs for name in epoch.tier_bytes}
        for tier in sorted(known, key=lambda name: list(_TIERS).index(name)):
            size = np.array([epoch.tier_bytes.get(tier, 0) / 1e6 for epoch in report.epochs])
            axes.barh(rows, size, 0.62, left=left, label=tier, color=_TIERS[tier])
            left += size
        for row, total in enumerate(left):
            _name_bar(axes, row, total, f"{total:.1f} MB" if total else "reads no set")
        _finish_bars(figure, axes, "MB of the set that the epoch reads, by the tier that holds it")

    return _svg(draw, _WIDTH, _bar_height(report) - 0.2)


def predicted_svg(report: RunReport) -> str | None:
    """Seconds of training and cache building, predicted and measured; None without a prediction."""
    epochs = [one for one in report.epochs if one.predicted_train_seconds is not None]
    if not epochs:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        rows = np.arange(len(epochs))[::-1].astype(float)
        predicted = [
            (one.predicted_train_seconds or 0) + (one.predicted_materialize_seconds or 0)
            for one in epochs
        ]
        actual = [one.train_seconds + one.materialize_seconds for one in epochs]
        axes.barh(rows + 0.19, predicted, 0.34, label="predicted", color="#c5ccd6")
        axes.barh(rows - 0.19, actual, 0.34, label="measured", color="#5e81ac")
        for row, guess, seconds in zip(rows, predicted, actual, strict=True):
            _name_bar(axes, row + 0.19, guess, f"{guess:.1f} s")
            _name_bar(axes, row - 0.19, seconds, f"{seconds:.1f} s")
        axes.set_yticks(rows, [f"epoch {one.epoch}" for one in epochs])
        _finish_bars(figure, axes, "seconds of training and building the cache")

    return _svg(draw, _HALF_WIDTH, _bar_height(report))


def _draw_boundary(axes: Axes, report: RunReport, last: int) -> None:
    at = [0, *(one.step for one in report.decisions), last]
    boundary = [
        report.epochs[0].boundary_start,
        *(one.boundary_after for one in report.decisions),
    ]
    axes.stairs(boundary, at, fill=True, color=_FILL)
    axes.stairs(boundary, at, baseline=None, color=_ACCENT, linewidth=2)
    axes.set(ylabel="frozen blocks", ylim=(0, report.num_blocks))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _draw_eta(axes: Axes, report: RunReport) -> None:
    """The lowest block that still trains decides; the others are shown faintly."""
    steps = [one.step for one in report.decisions]
    eta = np.array([[math.nan if x is None else x for x in one.eta] for one in report.decisions])
    for block in range(eta.shape[1]):
        axes.plot(steps, eta[:, block], color="#c5ccd6", linewidth=0.9)
    lowest = [
        one.eta[one.boundary_before] if one.boundary_before < len(one.eta) else None
        for one in report.decisions
    ]
    shown = [math.nan if x is None else x for x in lowest]
    axes.plot(steps, shown, "o-", color="#5e81ac", markersize=4, label="lowest training block")
    limits = [math.nan if one.threshold is None else one.threshold for one in report.decisions]
    axes.plot(steps, limits, "--", color=_ACCENT, label="threshold: below it a block freezes")
    axes.set(ylabel=report.eta_label)
    if np.nanmin(np.where(eta > 0, eta, math.nan)) > 0:
        axes.set_yscale("log")
    axes.legend(fontsize=8, loc="best")


def _draw_losses(axes: Axes, report: RunReport, ends: np.ndarray) -> None:
    """What says that training has settled, where nothing else decides."""
    losses = [epoch.validation.get("loss", math.nan) for epoch in report.epochs]
    axes.plot(
        [one.step for one in report.intervals],
        [one.train_loss for one in report.intervals],
        color="#c5ccd6",
        label="training loss",
    )
    axes.plot(
        *(ends, losses, "o-"),
        color="#5e81ac",
        markersize=5,
        label="validation loss",
        clip_on=False,
    )
    axes.set(ylabel="loss", ylim=(0, None))
    axes.legend(fontsize=8, loc="best")


def _rows(report: RunReport) -> list[str]:
    return [f"epoch {one.epoch}\n{one.read_from}" for one in report.epochs]


def _name_bar(axes: Axes, row: float, length: float, text: str) -> None:
    axes.text(length, row, f" {text}", va="center", fontsize=8)


def _bar_height(report: RunReport) -> float:
    return 1.25 + 0.45 * len(report.epochs)


def _finish_bars(figure: Figure, axes: Axes, label: str) -> None:
    axes.set(xlabel=label)
    axes.margins(x=0.14)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    figure.legend(ncols=3, loc="outside upper left", fontsize=8, handlelength=1)


def _svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    """An element for an HTML page: no prologue, no addresses, as wide as there is room."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        content = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(content, format="svg", transparent=True, metadata=nothing)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    head, rest = text.split(">", 1)
    return re.sub(r'\s(width|height)="[^"]*"', "", head) + ">" + rest
