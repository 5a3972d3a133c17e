"""Which pieces there are, with which settings, in which order: rates first, then seed by seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.frontier_parts.pieces import Finished, Piece, PieceFiles
from bench.frontier_parts.rows import (
    LONG_ROW,
    RATE_FACTORS,
    RATE_PROBES,
    Row,
    settings_of,
)
from bench.frontier_parts.sets import RATE_ROWS, DataSet

__all__ = ["Plan", "best_rate"]


def best_rate(probes: Mapping[float, Mapping[str, float]]) -> float:
    """The rate with the best validation accuracy, the lower loss where that is equal.

    Args:
        probes: validation scores by rate.
    """
    return min(probes, key=lambda rate: (-probes[rate]["accuracy"], probes[rate]["loss"]))


@dataclass(frozen=True)
class Plan:
    """All that is to be trained.

    Attributes:
        sets: data sets.
        rows: ways of training.
        seeds: the first one chooses the rates.
        base_rate: the middle of the grid; LoRA's is ten times that.
        choose_rates: else every kind takes the middle.
        num_blocks: of the model.
        files: of finished pieces, that later ones depend on.
    """

    sets: Mapping[str, DataSet]
    rows: Sequence[Row]
    seeds: Sequence[int]
    base_rate: float
    choose_rates: bool
    num_blocks: int
    files: PieceFiles

    def pieces(self) -> list[Piece]:
        """In order of what they tell: rates, the first seed of everything, the next seed, ..."""
        return [*self._probes(), *self._trainings()]

    def resolve(self, piece: Piece) -> dict[str, Any] | None:
        """Settings of a piece; None where it is not wanted."""
        data = dict(self.sets[piece.set_name].settings)
        if piece.row_name.startswith("rate-"):
            name, _, factor = piece.row_name.rpartition("-")
            kind = name.removeprefix("rate-")
            times, probe = RATE_PROBES[kind]
            settings = settings_of(probe, self.base_rate * times * float(factor), self.num_blocks)
            limit = min(data.get("data.limit") or RATE_ROWS, RATE_ROWS)
            changes = {"data.limit": limit, "data.test": None}
            return {**data, **changes, **settings, "training.seed": piece.seed}
        row = self.row(piece)
        if row == LONG_ROW and not self._still_better(piece.set_name):
            return None
        settings = settings_of(row, self.rate(piece.set_name, row.rate), self.num_blocks)
        return {**data, **settings, "training.seed": piece.seed}

    def row(self, piece: Piece) -> Row:
        """Of a piece."""
        if piece.row_name.startswith("rate-"):
            return RATE_PROBES[piece.row_name.split("-")[1]][1]
        return next(row for row in self.rows if row.name == piece.row_name)

    def rate(self, set_name: str, kind: str) -> float:
        """Chosen on validation; the middle of the grid where it was not."""
        times = RATE_PROBES[kind][0]
        probes: dict[float, Mapping[str, float]] = {}
        for factor in RATE_FACTORS if self.choose_rates else ():
            found = self.files.read(self._probe(set_name, kind, factor))
            if found is not None:
                probes[self.base_rate * times * factor] = found.measured["validation"]
        complete = len(probes) == len(RATE_FACTORS)
        return best_rate(probes) if complete else self.base_rate * times

    def _probes(self) -> list[Piece]:
        kinds = dict.fromkeys(row.rate for row in self.rows) if self.choose_rates else {}
        return [
            self._probe(name, kind, factor)
            for name in self.sets
            for kind in kinds
            for factor in RATE_FACTORS
        ]

    def _probe(self, set_name: str, kind: str, factor: float) -> Piece:
        return Piece(set_name, f"rate-{kind}-{factor:g}", self.seeds[0])

    def _trainings(self) -> list[Piece]:
        return [
            Piece(name, row.name, seed)
            for number, seed in enumerate(self.seeds)
            for name, data_set in self.sets.items()
            if data_set.most_seeds is None or number < data_set.most_seeds
            for row in self.rows
        ]

    def knows_long(self, set_name: str) -> bool:
        """Whether it is decided if full training is also given more than 4 epochs."""
        return all(self._first(set_name, f"full-{epochs}") for epochs in (2, 4))

    def _still_better(self, set_name: str) -> bool:
        """Whether 4 epochs are better than 2 on the first seed: more may be better still."""
        if not self.knows_long(set_name):
            return False
        short, long = (
            found.measured["test"]["accuracy"]
            for epochs in (2, 4)
            if (found := self._first(set_name, f"full-{epochs}"))
        )
        return bool(long > short)

    def _first(self, set_name: str, row_name: str) -> Finished | None:
        return self.files.read(Piece(set_name, row_name, self.seeds[0]))
