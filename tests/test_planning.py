import pytest

from afcore.planning import INFERENCE_GAIN, Rates, plan_materialize


def rates(prefix_block_tokens: int = 1000) -> Rates:
    return Rates(
        prefix_seconds=1.0,
        prefix_block_tokens=prefix_block_tokens,
        suffix_seconds=6.0,
        suffix_block_tokens=1000,
        read_bytes_per_second=100.0,
        write_bytes_per_second=50.0,
    )


def test_cost_and_saving_by_hand() -> None:
    plan = plan_materialize(
        rates(),
        num_tokens=500,
        hidden_bytes=2,
        read_boundary=0,
        boundary=4,
        epochs_left=3,
    )
    # 500 tokens x 4 blocks at 1 ms = 2 s recomputed; 1000 bytes: 10 s to read, 20 s to write.
    assert plan.num_bytes == 1000
    assert plan.cost_seconds == pytest.approx(2 * INFERENCE_GAIN + 20)
    assert plan.saving_seconds == pytest.approx(3 * (2 - 10))
    assert not plan.pays


def test_above_a_set_at_hand_reading_costs_nothing_more() -> None:
    plan = plan_materialize(
        rates(),
        num_tokens=500,
        hidden_bytes=2,
        read_boundary=2,
        boundary=4,
        epochs_left=30,
    )
    assert plan.saving_seconds == pytest.approx(30 * 1.0)
    assert plan.pays


def test_before_any_prefix_ran_a_third_of_the_suffix_is_forward() -> None:
    assert rates(prefix_block_tokens=0).forward_seconds_per_block_token == pytest.approx(0.002)
    assert rates().forward_seconds_per_block_token == pytest.approx(0.001)
