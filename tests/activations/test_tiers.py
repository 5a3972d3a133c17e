import pytest
from hypothesis import given
from hypothesis import strategies as st

from afcore.activations.tiers import Budgets, choose_window, place, room_beside

D, H, L, S = "device memory", "host memory", "local disk", "object store"


@pytest.mark.parametrize(
    ("sizes", "budgets", "window", "tiers"),
    [
        ([10, 10], (0, 20, 0), None, [H, H]),
        ([10, 10, 10], (10, 20, 0), None, [D, H, H]),
        ([10, 10, 10], (30, 0, 0), None, [D, D, D]),
        # Ten shards, memory for eight: windows of two, two at once, leave room for four.
        ([10] * 10, (0, 80, 30), 2, [H] * 4 + [L] * 3 + [S] * 3),
        ([10] * 10, (10, 80, 1000), 2, [D] + [H] * 4 + [L] * 5),
        # A shard is the least that can be a window.
        ([10] * 3, (0, 20, 0), 1, [S] * 3),
        ([10] * 3, (0, 0, 10), 1, [L, S, S]),
    ],
)
def test_tiers_are_filled_in_order(
    sizes: list[int], budgets: tuple[int, int, int], window: int | None, tiers: list[str]
) -> None:
    assert choose_window(sizes, Budgets(*budgets)) == window
    assert place(sizes, Budgets(*budgets), window) == tiers


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.tuples(*[st.integers(0, 900)] * 3))
def test_no_tier_holds_more_than_its_budget(
    sizes: list[int], budgets: tuple[int, int, int]
) -> None:
    window = choose_window(sizes, Budgets(*budgets))
    tiers = place(sizes, Budgets(*budgets), window)
    assert len(tiers) == len(sizes)
    for name, budget in zip((D, H, L), budgets, strict=True):
        assert sum(size for size, tier in zip(sizes, tiers, strict=True) if tier == name) <= budget
    if window is None:
        assert set(tiers) <= {D, H}


@pytest.mark.parametrize(
    ("free", "needed", "room"),
    [
        (80 * 10**9, 0, 40 * 10**9),
        (80 * 10**9, 60 * 10**9, 10 * 10**9),
        (80 * 10**9, 80 * 10**9, 0),
        (80 * 10**9, 90 * 10**9, 0),
    ],
)
def test_what_is_needed_otherwise_is_left(free: int, needed: int, room: int) -> None:
    assert room_beside(free, needed) == room
