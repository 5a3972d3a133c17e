"""The results as tables: each data set, one to one, and over all sets."""

from collections.abc import Sequence

from rich.table import Table

from bench.frontier_parts.summary import BASELINES, Against, OverSets, SetSummary
from bench.frontier_parts.yardstick import Bound, Estimate, Ratio

__all__ = ["against_table", "curve_table", "over_sets_table", "set_table"]


def curve_table(sets: Sequence[SetSummary]) -> Table:
    """Full training: test accuracy and seconds by duration."""
    durations = list(dict.fromkeys(label for each in sets for label in each.curve))
    title = "Full training, schedule compressed: mean test accuracy, seconds"
    table = _table(title, "data set", *(f"{label} epochs" for label in durations))
    for each in sets:
        points = [each.curve.get(label) for label in durations]
        cells = (f"{100 * p.accuracy:.2f} % at {p.seconds:.1f} s" if p else "-" for p in points)
        table.add_row(each.name, *cells)
    return table


def set_table(found: SetSummary) -> Table:
    """Every row beside the curve."""
    table = _table(
        f"{found.name}: speed-up = seconds at which full training is as accurate / seconds",
        *("row", "seeds", "rate", "test accuracy", "test loss", "seconds", "scaled"),
        *("speed-up (90 %)", "scaled", "points to full's best (90 %)", "disturbed"),
    )
    for row in found.rows:
        table.add_row(
            *(row.name, str(row.speedup.num_seeds), f"{row.rate:.3g}"),
            *(f"{100 * row.mean.accuracy:.2f} %", f"{row.loss:.3f}"),
            *(f"{row.mean.seconds:.1f}", f"{row.scaled_seconds:.1f}"),
            *(_estimate(row.speedup), _ratio(row.scaled_speedup)),
            f"{row.to_best.value:+.2f}{_interval(row.to_best.interval, '+.2f')}",
            str(row.num_disturbed or ""),
        )
    return table


def against_table(found: SetSummary) -> Table:
    """Every row beside single trainings: ratio of seconds, and both accuracies."""
    names = [name for name in BASELINES if any(name in row.against for row in found.rows)]
    table = _table(
        f"{found.name}: its seconds / ours, our and its test accuracy, difference ± 95 %",
        *("row", *(f"over {name}" for name in names)),
    )
    for row in found.rows:
        table.add_row(row.name, *(_against(row.against.get(name)) for name in names))
    return table


def over_sets_table(rows: Sequence[OverSets]) -> Table:
    """Geometric means, losses included."""
    table = _table(
        "All data sets",
        *("row", "sets", "speed-up, geometric mean (90 %)", "scaled", "worst set"),
        *("points to full's best, mean (90 %)", "worst set"),
    )
    for row in rows:
        name, worst = row.worst
        weakest, points = row.worst_to_best
        table.add_row(
            *(row.name, str(row.num_sets)),
            f"{_ratio(row.speedup)}{_interval(row.interval, '.2f')}",
            *(_ratio(row.scaled_speedup), f"{_ratio(worst)} {name}"),
            f"{row.to_best:+.2f}{_interval(row.to_best_interval, '+.2f')}",
            f"{points:+.2f} {weakest}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _ratio(found: Ratio | Estimate) -> str:
    mark = "" if found.bound is Bound.EXACT else f"{found.bound.value} "
    return f"{mark}{found.value:.2f}x"


def _estimate(found: Estimate) -> str:
    if found.interval is None:
        return f"{_ratio(found)} (one seed)"
    return f"{_ratio(found)}{_interval(found.interval, '.2f')}"


def _interval(ends: tuple[float, float] | None, form: str) -> str:
    return f" ({ends[0]:{form}} to {ends[1]:{form}})" if ends else ""


def _against(found: Against | None) -> str:
    if found is None:
        return "-"
    points = found.difference
    text = f"{found.ratio:.2f}x; {100 * found.accuracy:.2f}, {100 * found.other_accuracy:.2f} %"
    text += f"; {100 * points.mean:+.2f}"
    if points.num_pairs == 1:
        return text
    return f"{text} ± {50 * (points.high - points.low):.2f}"
