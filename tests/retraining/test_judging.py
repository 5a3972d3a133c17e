"""When the alias moves; cases computed by hand."""

import pytest

from afcore.results.paired import PairedDifference
from afcore.retraining.judging import judge
from afcore.tasks.one_label import OneLabelTask

ACCURACY = OneLabelTask.scores[0]
LOSS = OneLabelTask.scores[-1]


def difference(low: float, high: float) -> PairedDifference:
    return PairedDifference((low + high) / 2, low, high, 100)


@pytest.mark.parametrize(
    ("found", "margin", "moves"),
    [
        (difference(-0.005, 0.02), 0.01, True),
        (difference(-0.01, 0.03), 0.01, False),  # at the margin is not above it
        (difference(-0.02, 0.05), 0.01, False),
        (difference(0.001, 0.05), 0.0, True),
        (difference(0.0, 0.0), 0.0, False),
        (difference(float("-inf"), float("inf")), 0.01, False),
    ],
)
def test_the_lower_end_decides(found: PairedDifference, margin: float, moves: bool) -> None:
    verdict = judge(ACCURACY, found, has_test=True, has_champion=True, margin=margin)
    assert verdict.moves is moves
    assert verdict.reason.startswith("moved" if moves else "not moved")
    assert f"{100 * found.low:+.2f} points" in verdict.reason


def test_of_a_loss_less_is_better() -> None:
    worse = difference(0.05, 0.2)
    assert not judge(LOSS, worse, has_test=True, has_champion=True, margin=0.1).moves
    better = judge(LOSS, difference(-0.2, 0.05), has_test=True, has_champion=True, margin=0.1)
    assert better.moves
    assert better.difference is not None
    assert (better.difference.low, better.difference.high) == (-0.05, 0.2)


def test_what_is_not_compared() -> None:
    first = judge(ACCURACY, None, has_test=True, has_champion=False, margin=0.01)
    assert first.moves
    untested = judge(ACCURACY, None, has_test=False, has_champion=False, margin=0.01)
    assert not untested.moves
    assert "without data.test" in untested.reason
    unlike = judge(
        ACCURACY, None, has_test=True, has_champion=True, margin=0.01, why_not="other labels"
    )
    assert not unlike.moves
    assert "other labels" in unlike.reason
