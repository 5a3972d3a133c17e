"""The rows that ``bench/gpu.py`` measures: as lines of text, and as a picture."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table; milliseconds are of the median repeat, and of the extreme ones."""

    batch_size: int
    mode: str
    boundary: int
    tier: str
    compiled: bool
    step_ms: float
    fastest_ms: float
    slowest_ms: float
    tokens_per_second: float
    epoch_seconds: float
    peak_device_bytes: int


HEADER = (
    f"{'batch':>5} {'mode':<11} {'k':>2} {'tier':<7} {'':<8} {'ms/step':>8} {'(range)':>15} "
    f"{'tokens/s':>10} {'over hf':>8} {'epoch s':>8} {'GB':>6}"
)


def line(row: Row, rows: list[Row]) -> str:
    """One row of the table; ``over hf`` is the speed-up over ``hf random``."""
    base = next(r for r in rows if r.batch_size == row.batch_size)
    return (
        f"{row.batch_size:>5} {row.mode:<11} {row.boundary:>2} {row.tier:<7} "
        f"{'compiled' if row.compiled else '':<8} {row.step_ms:>8.2f} "
        f"{f'({row.fastest_ms:.2f}-{row.slowest_ms:.2f})':>15} {row.tokens_per_second:>10,.0f} "
        f"{row.tokens_per_second / base.tokens_per_second:>7.2f}x {row.epoch_seconds:>8.1f} "
        f"{row.peak_device_bytes / 1e9:>6.2f}"
    )


def plot(source: Path) -> None:
    """Tokens per second over the boundary, a panel for each batch size."""
    from matplotlib.figure import Figure

    report = json.loads(source.read_text())
    rows = [Row(**row) for row in report["rows"]]
    sizes = list(dict.fromkeys(row.batch_size for row in rows))
    figure = Figure(figsize=(5.5 * len(sizes), 4.8), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        draw_panel(axes, [row for row in rows if row.batch_size == size])
        axes.set_title(f"batch {size}")
    figure.suptitle(report["machine"], fontsize=9)
    figure.savefig(source.with_suffix(".png"), dpi=150)
    print(source.with_suffix(".png"))


def draw_panel(axes: Any, rows: list[Row]) -> None:
    """Lines for what has a boundary, levels for what has none."""
    lines: dict[str, list[Row]] = {}
    boundaries = sorted({row.boundary for row in rows} - {0})
    for row in rows:
        name = f"cached, {row.tier}" if row.tier else row.mode
        lines.setdefault(name + (", compiled" if row.compiled else ""), []).append(row)
    for name, points in lines.items():
        rates = [point.tokens_per_second / 1000 for point in points]
        compiled = "--" if points[0].compiled else "-"
        if not points[0].boundary:
            axes.axhline(rates[0], color=LEVELS[points[0].mode], ls=compiled, lw=1, label=name)
            continue
        where = [point.boundary for point in points]
        color = COLORS[points[0].tier or points[0].mode]
        axes.plot(where, rates, color=color, ls=compiled, marker="o", ms=4, label=name)
    axes.set_xticks(boundaries)
    axes.set_xlabel("boundary: blocks frozen, of 12")
    axes.set_ylabel("thousand tokens per second")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)


LEVELS = {"hf random": "0.7", "hf grouped": "0.45", "full": "0.1"}
COLORS = {
    "freeze": "tab:gray",
    "device": "tab:green",
    "host": "tab:blue",
    "disk": "tab:orange",
    "store": "tab:red",
    "limit": "tab:purple",
}
