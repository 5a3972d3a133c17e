"""Pictures of a run and of a comparison. No I/O."""

import math

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from afcore.report import CompareReport, RunReport

__all__ = ["accuracy_cost_figure", "epoch_time_figure", "freezing_figure"]

_COLORS = {
    "full": "#4c566a",
    "freeze": "#5e81ac",
    "cached": "#bf616a",
    "hf_trainer": "#d08770",
    "hf_trainer_grouped": "#ebcb8b",
}
_TIME_PARTS = {
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
        edges = np.array([max(0, 2 * steps[0] - (steps[1] if len(steps) > 1 else 0)), *steps])
        image = axes.pcolormesh(
            edges,
            np.arange(report.num_blocks + 1),
            np.ma.masked_invalid(eta.T),
            cmap="viridis",
            norm=mpl.colors.LogNorm(*_limits(eta)),
        )
        figure.colorbar(image, ax=axes, label="eta (change of the gradient norm, log scale)")
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


def epoch_time_figure(report: RunReport) -> Figure:
    """Seconds of each epoch, split into what they were spent on."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    names = [f"{epoch.epoch}\n{epoch.read_from}" for epoch in report.epochs]
    bottom = np.zeros(len(names))
    for field, (label, color) in _TIME_PARTS.items():
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


def accuracy_cost_figure(report: CompareReport) -> Figure:
    """Test (else validation) accuracy against dollars and against seconds, a point a run."""
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
                [100 * run.accuracy for run in runs],
                label=mode,
                color=_COLORS.get(mode),
                s=60,
            )
        axes.set(xlabel=label, ylabel="accuracy, %")
        axes.set_xlim(left=0)
        axes.margins(y=0.4)
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _limits(eta: np.ndarray) -> tuple[float, float]:
    positive = eta[np.isfinite(eta) & (eta > 0)]
    if not positive.size:
        return 1e-3, 1.0
    return float(positive.min()), float(max(positive.max(), positive.min() * 1.01))
