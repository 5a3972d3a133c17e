"""Pieces of minutes, each a training that runs alone; a finished one is a file and not run again.

Beside every piece a short fixed training is timed, before and after: the *reference*. Where it is
off its median, something else used the machine, and the piece is *disturbed*: it is run once more
(or as often as was asked for), and the least disturbed one counts, marked where it still is.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afcore.errors import AutoFreezeError, StoppedError

__all__ = ["ATTEMPTS", "DISTURBED", "Finished", "Piece", "PieceFiles", "References", "run_pieces"]

DISTURBED = 0.15
"""Largest relative deviation of the reference from its median."""
ATTEMPTS = 2
"""How often a piece is trained at most, for one that is not disturbed."""
_FIRST_REFERENCES = 3


@dataclass(frozen=True)
class Piece:
    """One training: a row of a data set with a seed."""

    set_name: str
    row_name: str
    seed: int

    @property
    def path(self) -> str:
        """Of its file, in the folder of all."""
        return f"{self.set_name}/{self.row_name}-seed{self.seed}.json"


@dataclass(frozen=True)
class Finished:
    """A piece that was trained.

    Attributes:
        piece: which.
        settings: that it was trained with.
        measured: what the training gave.
        references: seconds before and after.
        disturbed: whether they were off the median.
        attempts: references of all attempts, and their paid seconds.
    """

    piece: Piece
    settings: Mapping[str, Any]
    measured: Mapping[str, Any]
    references: Sequence[float]
    disturbed: bool
    attempts: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """As in its file."""
        return {**vars(self.piece), **{k: v for k, v in vars(self).items() if k != "piece"}}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Finished":
        """The reverse."""
        piece = Piece(*(tree.pop(name) for name in ("set_name", "row_name", "seed")))
        return cls(piece, **tree)


class PieceFiles:
    """The files of finished pieces in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, piece: Piece) -> Finished | None:
        """A piece, when it is finished."""
        path = self._folder / piece.path
        return Finished.from_json(json.loads(path.read_text())) if path.exists() else None

    def write(self, finished: Finished) -> None:
        """In one step, so that a kill leaves no half a file."""
        path = self._folder / finished.piece.path
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        half.write_text(json.dumps(finished.to_json(), indent=1) + "\n")
        half.replace(path)

    def all(self) -> list[Finished]:
        """Every finished piece, by name."""
        paths = sorted(self._folder.glob("*/*.json"))
        return [Finished.from_json(json.loads(path.read_text())) for path in paths]


@dataclass
class References:
    """Times the reference and knows its median.

    Attributes:
        measure: seconds of it.
        known: of earlier pieces.
    """

    measure: Callable[[], float]
    known: list[float] = field(default_factory=list)

    def take(self) -> float:
        """Measure once more."""
        self.known.append(self.measure())
        return self.known[-1]

    def deviation(self, seconds: Sequence[float]) -> float:
        """Largest relative one of these from the median of all."""
        while len(self.known) < _FIRST_REFERENCES:
            self.take()
        median = statistics.median(self.known)
        return max(abs(one / median - 1) for one in seconds)


def run_pieces(
    pieces: Iterable[Piece],
    files: PieceFiles,
    resolve: Callable[[Piece], Mapping[str, Any] | None],
    train: Callable[[Piece, Mapping[str, Any]], dict[str, Any]],
    references: References,
    *,
    seconds_left: Callable[[], float] = lambda: float("inf"),
    attempts: int = ATTEMPTS,
    say: Callable[[str], None] = print,
) -> dict[Piece, str]:
    """Train what is not finished, in this order.

    Args:
        pieces: all that are wanted.
        files: where the finished ones are.
        resolve: settings of a piece, asked when its turn comes, as they may depend on those before;
            None for one that is not wanted after all.
        train: gives what is to be recorded; ``paid_seconds`` and ``test`` among it.
        references: beside every piece.
        seconds_left: no piece is started after that.
        attempts: how often a piece is trained at most, for one that is not disturbed.
        say: a line.

    Returns:
        Pieces that failed and why: their files are missing, so another start tries them again.
    """
    failed: dict[Piece, str] = {}
    for piece in pieces:
        settings = resolve(piece)
        if settings is None:
            continue
        found = files.read(piece)
        if found is not None and found.settings == settings:
            continue
        if seconds_left() <= 0:
            say("no time is left: the same command goes on from here")
            break
        if found is not None:
            say(f"{piece.path}: was trained with other settings; again")
        try:
            finished = _train_alone(piece, settings, train, references, attempts, say)
        except StoppedError:
            raise  # who asked one piece to stop means all
        except AutoFreezeError as error:
            failed[piece] = f"{type(error).__name__}: {error}"
            say(f"{piece.path}: failed: {failed[piece]}")
            continue
        files.write(finished)
        say(_line(finished))
    return failed


def _train_alone(
    piece: Piece,
    settings: Mapping[str, Any],
    train: Callable[[Piece, Mapping[str, Any]], dict[str, Any]],
    references: References,
    attempts: int,
    say: Callable[[str], None],
) -> Finished:
    """Once; again where it was disturbed."""
    tries = []
    while len(tries) < attempts:
        before = references.take()
        measured = train(piece, settings)
        both = [before, references.take()]
        tries.append((references.deviation(both), both, measured))
        if tries[-1][0] <= DISTURBED:
            break
        say(f"{piece.path}: the reference is {100 * tries[-1][0]:.0f} % off; disturbed")
    deviation, both, measured = min(tries, key=lambda each: each[0])
    each_try = [{"references": pair, "paid_seconds": got["paid_seconds"]} for _, pair, got in tries]
    measured = {**measured, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return Finished(piece, dict(settings), measured, both, deviation > DISTURBED, each_try)


def _line(finished: Finished) -> str:
    measured = finished.measured
    test = measured.get("test") or measured["validation"]
    return (
        f"{finished.piece.path}: {100 * test['accuracy']:.2f} % after "
        f"{measured['paid_seconds']:.1f} s{' (disturbed)' if finished.disturbed else ''}"
    )
