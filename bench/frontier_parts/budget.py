"""What the pieces that are left will take, before any of them starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.frontier_parts.order import Plan
from bench.frontier_parts.pieces import Piece
from bench.frontier_parts.rows import LONG_ROW
from bench.frontier_parts.training import SetFacts

__all__ = ["Forecast", "budget_table", "forecast", "piece_seconds"]


@dataclass(frozen=True)
class Forecast:
    """Of one data set."""

    num_pieces: int
    num_left: int
    seconds_left: float


def piece_seconds(plan: Plan, piece: Piece, facts: SetFacts, reference_seconds: float) -> float:
    """Predicted, from a reference epoch of the set: all that happens until the next piece."""
    row = plan.row(piece)
    rows, validation, test = facts.train_rows, facts.validation_rows, facts.test_rows
    if row.group == "rate":
        limit = (plan.resolve(piece) or {})["data.limit"]
        share = min(1.0, limit / (rows + validation))
        rows, validation, test = round(rows * share), round(validation * share), 0
    scored = max(1.0, row.epochs) * validation + test
    return (
        row.passes * rows * facts.train_seconds
        + scored * facts.evaluate_seconds
        + facts.around_seconds
        + 2 * reference_seconds
    )


def forecast(
    plan: Plan, facts: Mapping[str, SetFacts], reference_seconds: float
) -> dict[str, Forecast]:
    """By data set. Training of 8 epochs is counted, though it may turn out not to be wanted."""
    found = {}
    for name in plan.sets:
        pieces = [piece for piece in plan.pieces() if piece.set_name == name]
        left = [piece for piece in pieces if not _is_done(plan, piece)]
        seconds = [piece_seconds(plan, piece, facts[name], reference_seconds) for piece in left]
        found[name] = Forecast(len(pieces), len(left), sum(seconds))
    return found


def budget_table(
    found: Mapping[str, Forecast], facts: Mapping[str, SetFacts], seeds: Sequence[int], hours: float
) -> Table:
    """Sets, their sizes, pieces and hours."""
    num_left = sum(one.num_left for one in found.values())
    total = sum(one.seconds_left for one in found.values()) / 3600
    table = Table(
        title=f"Pieces: {num_left} left, about {total:.1f} hours of at most {hours:g}; "
        f"seeds {', '.join(map(str, seeds))}",
        title_justify="left",
    )
    for column in ("data set", "classes", "training rows", "validation", "test", "tokens: mean"):
        table.add_column(column)
    for column in ("most", "an epoch of full, s", "pieces", "left", "hours left"):
        table.add_column(column)
    for name, one in found.items():
        f = facts[name]
        table.add_row(
            *(name, str(f.num_classes), f"{f.train_rows:,}", f"{f.validation_rows:,}"),
            *(f"{f.test_rows:,}", f"{f.mean_tokens:.0f}", str(f.longest_tokens)),
            *(f"{f.train_rows * f.train_seconds:.1f}", str(one.num_pieces), str(one.num_left)),
            f"{one.seconds_left / 3600:.2f}",
        )
    return table


def _is_done(plan: Plan, piece: Piece) -> bool:
    settings, finished = plan.resolve(piece), plan.files.read(piece)
    if settings is None:  # not wanted, or not known yet: then it is counted
        return piece.row_name != LONG_ROW.name or plan.knows_long(piece.set_name)
    return finished is not None and finished.settings == settings
