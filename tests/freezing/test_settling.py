import pytest

from afcore.freezing.settling import has_settled


@pytest.mark.parametrize(
    ("losses", "least_gain", "settled"),
    [
        ([1.0], 0.0, False),  # nothing to compare with
        ([1.0, 0.99], 0.0, False),
        ([1.0, 1.0], 0.0, True),
        ([1.0, 0.92], 0.1, True),
        ([1.0, 0.89], 0.1, False),
        ([1.0, 0.5, 0.8], 0.0, True),  # the best before counts, not the last
    ],
)
def test_settled_is_a_loss_that_falls_too_little(
    losses: list[float], least_gain: float, settled: bool
) -> None:
    assert has_settled(losses, least_gain) is settled


@pytest.mark.parametrize(
    ("losses", "errors", "settled"),
    [
        ([1.0, 1.1], [0.5, 0.5], True),
        ([1.0, 1.1], [0.5, 0.4], False),  # the small classes are still being learnt
        ([1.0, 0.8], [0.5, 0.5], False),  # nothing shows in the score yet
        ([1.0, 0.95], [0.5, 0.47], True),  # both gain less than a tenth
        ([1.0, 1.1], [0.5, 0.0], False),
        ([1.0, 1.1], [0.0, 0.0], True),  # nothing is left to gain
    ],
)
def test_a_score_that_still_gains_keeps_training_going(
    losses: list[float], errors: list[float], settled: bool
) -> None:
    assert has_settled(losses, 0.1, errors) is settled
