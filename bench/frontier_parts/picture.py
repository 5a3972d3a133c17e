"""One picture a data set: accuracy against seconds, full training as a line, methods as points."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from bench.frontier_parts.summary import SetSummary
from bench.frontier_parts.yardstick import Point, envelope

__all__ = ["frontier_picture"]

_LOOKS = {
    "full": ("#4c566a", "o"),
    "trainer": ("#d08770", "s"),
    "static": ("#5e81ac", "^"),
    "rule": ("#8f6fa8", "D"),
    "ours": ("#bf616a", "*"),
}
_NAMES = {
    "trainer": "Hugging Face's Trainer",
    "static": "frozen from the start: share, epochs",
    "rule": "policies, 4 epochs",
    "ours": "ours, by tolerance in points",
}
_POINT_PIXELS = 6


def frontier_picture(found: SetSummary) -> Figure:
    """Of mean seconds and mean test accuracy; bars are standard errors over seeds."""
    figure = Figure(figsize=(8.5, 5.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    curve = sorted(found.curve.items(), key=lambda item: item[1].seconds)
    texts = _draw_curve(axes, [(f"{label} ep.", point) for label, point in curve])
    texts += _draw_methods(axes, found)
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.12)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    seeds = {row.speedup.num_seeds for row in found.rows}
    over = "1 seed" if seeds <= {1} else f"mean of {max(seeds)} seeds"
    axes.set(
        title=f"{found.name}: up and to the left is better ({over})",
        xlabel="seconds: training, cache, validation, decisions (log)",
        ylabel="test accuracy, %",
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    _place(figure, axes, texts)
    return figure


_Labelled = list[tuple[str, Point, str]]


def _draw_curve(axes: Axes, curve: list[tuple[str, Point]]) -> _Labelled:
    color, marker = _LOOKS["full"]
    points = [point for _, point in curve]
    xs = [point.seconds for point in points]
    axes.plot(
        xs,
        [100 * point.accuracy for point in points],
        color=color,
        marker=marker,
        label="full training, by epochs",
    )
    best = [100 * point.accuracy for point in envelope(points)]
    axes.plot(xs, best, color=color, linestyle=":", linewidth=1)
    return [(label, point, color) for label, point in curve]


def _draw_methods(axes: Axes, found: SetSummary) -> _Labelled:
    texts = []
    for group, name in _NAMES.items():
        rows = [row for row in found.rows if row.group == group]
        if not rows:
            continue
        color, marker = _LOOKS[group]
        axes.errorbar(
            [row.mean.seconds for row in rows],
            [100 * row.mean.accuracy for row in rows],
            yerr=[100 * row.accuracy_error for row in rows],
            color=color,
            marker=marker,
            markersize=11 if group == "ours" else 7,
            linestyle="-" if group == "ours" else "none",
            elinewidth=0.8,
            label=name,
            zorder=3,
        )
        texts += [(row.label, row.mean, color) for row in rows]
    return texts


def _place(figure: Figure, axes: Axes, labelled: _Labelled) -> None:
    """Put every label where it covers no point and no other label, as near as that is."""
    figure.draw_without_rendering()
    canvas = figure.canvas
    renderer = canvas.get_renderer()  # type: ignore[attr-defined]
    scale = figure.dpi / 72
    taken = [_around(axes, point, _POINT_PIXELS * scale) for _, point, _ in labelled]
    taken += _along_lines(axes)
    inside = axes.get_window_extent(renderer)
    for label, point, color in labelled:
        text = axes.annotate(
            label,
            (point.seconds, 100 * point.accuracy),
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            color=color,
        )
        taken.append(_settle(text, taken, inside, renderer))


def _settle(text: Annotation, taken: list[Bbox], inside: Bbox, renderer: object) -> Bbox:
    best: tuple[float, tuple[int, int, str, str]] | None = None
    for distance, offset in enumerate(_offsets()):
        x, y, horizontal, vertical = offset
        text.set(position=(x, y), ha=horizontal, va=vertical)
        box = text.get_window_extent(renderer)
        covered = sum(_overlap(box, other) for other in taken)
        outside = box.width * box.height - _overlap(box, inside)
        cost = covered + outside + 0.1 * distance
        if best is None or cost < best[0]:
            best = (cost, offset)
    assert best is not None
    x, y, horizontal, vertical = best[1]
    text.set(position=(x, y), ha=horizontal, va=vertical)
    return text.get_window_extent(renderer)


def _offsets() -> Iterator[tuple[int, int, str, str]]:
    """Right, left, above, below and the corners; then further out."""
    for far in (7, 13, 20, 28, 38):
        near = far // 2
        yield from (
            (far, 0, "left", "center"),
            (0, far, "center", "bottom"),
            (0, -far, "center", "top"),
            (-far, 0, "right", "center"),
            (near, far, "left", "bottom"),
            (near, -far, "left", "top"),
            (-near, far, "right", "bottom"),
            (-near, -far, "right", "top"),
        )


def _around(axes: Axes, point: Point, pixels: float) -> Bbox:
    x, y = axes.transData.transform((point.seconds, 100 * point.accuracy))
    return Bbox.from_extents(x - pixels, y - pixels, x + pixels, y + pixels)


def _along_lines(axes: Axes) -> list[Bbox]:
    """Small boxes on every line that is drawn."""
    boxes = []
    for line in axes.lines:
        if line.get_linestyle() == "None" or len(line.get_xydata()) < 2:
            continue
        corners = axes.transData.transform(line.get_xydata())
        for before, after in itertools.pairwise(corners):
            for x, y in np.linspace(before, after, 1 + int(math.dist(before, after) // 4)):
                boxes.append(Bbox.from_extents(x - 2, y - 2, x + 2, y + 2))
    return boxes


def _overlap(one: Bbox, other: Bbox) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)
