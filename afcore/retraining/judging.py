"""Whether a new version becomes the champion, and why; on test rows that both have answered."""

from dataclasses import dataclass

from afcore.results.paired import PairedDifference
from afcore.tasks.scores import Score

__all__ = ["Verdict", "judge"]


@dataclass(frozen=True)
class Verdict:
    """What becomes of the alias.

    Attributes:
        moves: to the new version.
        reason: in a sentence.
        difference: of the new version's score to the champion's, more being better; None where
            there was nothing to compare.
    """

    moves: bool
    reason: str
    difference: PairedDifference | None = None


def judge(
    score: Score,
    found: PairedDifference | None,
    *,
    has_test: bool,
    has_champion: bool,
    margin: float,
    why_not: str = "",
) -> Verdict:
    """Decide.

    Args:
        score: the main one.
        found: the new version's minus the champion's, on the same test rows; None: not known.
        has_test: whether there is a test set.
        has_champion: whether another version has the alias.
        margin: ``retrain.margin``.
        why_not: why the two could not be compared.
    """
    if not has_test:
        return Verdict(
            False, "not moved: without data.test there is nothing to compare the versions on"
        )
    if not has_champion:
        return Verdict(True, "moved to the new version, the first one with a test")
    if found is None:
        return Verdict(False, f"not moved: the two could not be compared ({why_not})")
    better = found if score.higher_is_better else _reversed(found)
    shown = (
        f"{_amount(score, better.mean)} ({_amount(score, better.low)} to "
        f"{_amount(score, better.high)}, 95 % interval over {better.num_pairs:,} test rows"
        f"{'' if score.higher_is_better else '; + is better'})"
    )
    limit = f"minus retrain.margin, {_amount(score, -margin)}"
    if better.low > -margin:
        return Verdict(
            True,
            f"moved: the new version differs by {shown}; the lower end is above {limit}",
            better,
        )
    return Verdict(
        False,
        f"not moved: the new version differs by {shown}; the lower end is not above {limit}",
        better,
    )


def _reversed(found: PairedDifference) -> PairedDifference:
    """So that more is better."""
    return PairedDifference(-found.mean, -found.high, -found.low, found.num_pairs)


def _amount(score: Score, value: float) -> str:
    return f"{100 * value:+.2f} points" if score.in_percent else f"{value:+.4f}"
