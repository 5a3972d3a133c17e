"""What was measured: a table a data set, all of it as JSON, one picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

__all__ = ["publish"]

_NAMES = {
    "trainer": "the Trainer's own search",
    "alone": "our trials, each alone",
    "cold": "ours, empty store",
    "warm": "ours, sets are there",
    "proxy_cold": "cheaper trials, empty store",
    "proxy_warm": "cheaper trials, sets are there",
}
_COLORS = {"trainer": "#d08770", "alone": "#8f6fa8", "cold": "#5e81ac", "warm": "#bf616a"}

Found = Mapping[str, Mapping[str, Any]]
"""What :func:`bench.search_parts.pieces.measure` has returned, by piece, of one data set."""


def publish(
    sets: Mapping[str, Found], machine: Mapping[str, Any], folders: Sequence[Path], console: Console
) -> None:
    """Print a table for each data set; write ``search.json`` and ``search.png`` into folders."""
    for name, found in sets.items():
        console.print(_table(name, found))
    tree = {"machine": dict(machine), "sets": {name: _compact(one) for name, one in sets.items()}}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "search.json").write_text(json.dumps(tree, indent=1) + "\n")
        _picture(sets).savefig(folder / "search.png")
        console.print(f"{folder}/search.json and search.png")


def _table(name: str, found: Found) -> Table:
    table = Table(title=f"Search on {name}", title_justify="left")
    numbers = ("seconds", "over trainer", "over alone", "processor s", "over trainer", "over alone")
    for column in ("search", *numbers, "validation", "test", "pruned", "best"):
        table.add_column(column, justify="left" if column in ("search", "best") else "right")
    for piece, one in found.items():
        table.add_row(
            piece,
            *_compared(found, one, "seconds"),
            *_compared(found, one, "processor_seconds"),
            f"{100 * one['validation']:.2f} %",
            f"{100 * one['test']:.2f} %" if "test" in one else "-",
            str(one.get("pruned", "-")),
            ", ".join(f"{key}={value:.3g}" for key, value in one.get("values", {}).items()),
        )
    return table


def _compared(found: Found, one: Mapping[str, Any], name: str) -> list[str]:
    return [f"{one[name]:.1f}", *(_over(found, other, one, name) for other in ("trainer", "alone"))]


def _over(found: Found, other: str, one: Mapping[str, Any], name: str) -> str:
    return f"{found[other][name] / one[name]:.2f}x" if other in found else "-"


def _compact(found: Found) -> dict[str, dict[str, Any]]:
    """Of the report, what each trial was and took."""
    return {
        piece: {name: _trials(value) if name == "report" else value for name, value in one.items()}
        for piece, one in found.items()
    }


def _trials(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    kept = ("number", "state", "values", "score", "seconds")
    return [{name: trial.get(name) for name in kept} for trial in report["trials"]]


def _picture(sets: Mapping[str, Found]) -> Figure:
    """Minutes of each search, a panel a data set; beside a bar its ratio and its best score."""
    figure = Figure(figsize=(8.5, 1.2 + 1.4 * len(sets)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sets), 1, squeeze=False)[:, 0]
    for axes, (name, found) in zip(panels, sets.items(), strict=True):
        _bars(axes, name, found)
    panels[-1].set_xlabel("minutes of the whole search")
    return figure


def _bars(axes: Axes, name: str, found: Found) -> None:
    pieces = [piece for piece in _NAMES if piece in found]
    minutes = [found[piece]["seconds"] / 60 for piece in pieces]
    colors = [_COLORS[piece.removeprefix("proxy_")] for piece in pieces]
    axes.barh(pieces, minutes, color=colors)
    axes.set_yticks(range(len(pieces)), [_NAMES[piece] for piece in pieces])
    axes.invert_yaxis()
    axes.set_xlim(0, max(minutes) * 1.35)
    axes.set_title(name, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    for place, piece in enumerate(pieces):
        ratio = (
            "" if piece == "trainer" else f"{_over(found, 'trainer', found[piece], 'seconds')}, "
        )
        text = f" {minutes[place]:.1f} min: {ratio}best {100 * found[piece]['validation']:.1f} %"
        axes.text(minutes[place], place, text, va="center", fontsize=8)
