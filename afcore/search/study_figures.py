"""Pictures of a study: score against seconds, its history, and all keys side by side. No I/O."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from afcore.search.search_report import SearchReport, TrialRow

__all__ = ["history_figure", "parallel_figure", "pareto_rows", "seconds_figure", "study_figures"]

_COLORS = {"finished": "#5e81ac", "pruned": "#d08770"}


def study_figures(report: SearchReport) -> dict[str, Figure]:
    """All of them, by their names."""
    return {
        "score_seconds": seconds_figure(report),
        "history": history_figure(report),
        "parallel_coordinates": parallel_figure(report),
    }


def seconds_figure(report: SearchReport) -> Figure:
    """Score against the seconds that a trial's epochs take, with the Pareto front."""
    figure, axes = _axes(report)
    for state, rows in _by_state(report).items():
        axes.scatter(
            [epoch_seconds(row) for row in rows],
            list(map(_score, rows)),
            color=_COLORS[state],
            label=state if rows else None,
        )
    front = pareto_rows(report)
    axes.plot(
        [epoch_seconds(row) for row in front],
        list(map(_score, front)),
        color="#bf616a",
        drawstyle="steps-post",
        marker="o",
        markerfacecolor="none",
        markersize=10,
        label="Pareto front",
    )
    for row in front:
        axes.annotate(
            str(row.number), (epoch_seconds(row), _score(row)), xytext=(3, 3),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set_xlabel("seconds of the trial's epochs, shared ones counted as if trained")
    axes.legend()
    return figure


def history_figure(report: SearchReport) -> Figure:
    """Scores in the order of the trials, and the best so far."""
    figure, axes = _axes(report)
    for state, rows in _by_state(report).items():
        numbers = [row.number for row in rows]
        label = state if rows else None
        axes.scatter(numbers, list(map(_score, rows)), color=_COLORS[state], label=label)
    done = _by_state(report)["finished"]
    best = np.maximum if report.higher_is_better else np.minimum
    if done:
        scores = best.accumulate(list(map(_score, done)))
        axes.step([row.number for row in done], scores, where="post", color="#bf616a", label="best")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def parallel_figure(report: SearchReport) -> Figure:
    """A line a trial through the values of all keys, colored by its score."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in report.trials if row.score is not None]
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    heights = {key: _heights([row.values.get(key) for row in rows]) for key in keys}
    scores = np.array(list(map(_score, rows)), dtype=float)
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    spread = (high - low) or 1.0
    for number in range(len(rows)):
        share = (scores[number] - low) / spread
        ys = [heights[key][0][number] for key in keys]
        color = colormaps["viridis"](share)
        axes.plot([*range(len(keys)), len(keys)], [*ys, share], color=color, alpha=0.8)
    axes.set_xticks(range(len(keys) + 1), [*(_short(key) for key in keys), report.score_title])
    axes.set_yticks([])
    for place, key in enumerate(keys):
        for height, text in heights[key][1]:
            axes.annotate(text, (place, height), fontsize=8, ha="left", va="center")
    for height, score in ((0.0, low), (1.0, high)):
        axes.annotate(report.shown(score), (len(keys), height), fontsize=8, va="center")
    return figure


def epoch_seconds(row: TrialRow) -> float:
    """Of all its epochs, also those that another run trained."""
    return sum(epoch.seconds for epoch in row.epochs)


def pareto_rows(report: SearchReport) -> list[TrialRow]:
    """Finished trials that no other one beats in both seconds and score, the fastest first."""
    sign = 1.0 if report.higher_is_better else -1.0
    front: list[TrialRow] = []
    done = [row for row in _by_state(report)["finished"] if row.score is not None]
    for row in sorted(done, key=lambda row: (epoch_seconds(row), -sign * _score(row))):
        if not front or sign * _score(row) > sign * _score(front[-1]):
            front.append(row)
    return front


def _score(row: TrialRow) -> float:
    """Of a trial that has one."""
    return math.nan if row.score is None else row.score


def _axes(report: SearchReport) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel(f"validation {report.score_title}")
    return figure, axes


def _by_state(report: SearchReport) -> dict[str, list[TrialRow]]:
    scored = [row for row in report.trials if row.score is not None]
    return {state: [row for row in scored if row.state == state] for state in _COLORS}


def _heights(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Each value's place from 0 to 1, and what is written beside the axis."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len([v for v in values if v is not None]) and len(set(numbers)) > 1:
        low, high = min(numbers), max(numbers)
        scale = np.log if low > 0 and high / low >= 10 else float
        span = scale(high) - scale(low)
        places = [
            float("nan") if v is None else float((scale(v) - scale(low)) / span) for v in values
        ]
        return places, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    names = list(dict.fromkeys(map(str, values)))
    step = 1 / max(1, len(names) - 1)
    return [names.index(str(v)) * step for v in values], [
        (number * step, name) for number, name in enumerate(names)
    ]


def _short(key: str) -> str:
    return key.rpartition(".")[2]
