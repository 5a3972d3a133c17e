import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afcore.data.split import held_out, sampled

KEYS = st.lists(st.text(max_size=5), min_size=2, max_size=60).filter(lambda k: len(set(k)) > 1)
FRACTIONS = st.floats(0.01, 0.99)
WORDS = [f"word {i}" for i in range(20_000)]


def sides(keys: list[str], fraction: float = 0.3) -> dict[str, bool]:
    return dict(zip(keys, held_out(keys, fraction).tolist(), strict=True))


def below(key: str, fraction: float) -> bool:
    digest = hashlib.sha256(f"validation\n{key}".encode()).hexdigest()
    return int(digest[:16], 16) < fraction * 2**64


def test_the_hash_of_the_key_is_compared_with_the_fraction() -> None:
    # The first eight bytes, by sha256sum: 0.41, 0.85, 0.36, 0.03 and 0.19 of 2**64.
    keys = ["word 0", "word 1", "word 2", "word 3", "word 4"]
    assert held_out(keys, 0.3).tolist() == [False, False, False, True, True]
    assert held_out(keys, 0.5).tolist() == [True, False, True, True, True]


@given(KEYS, KEYS, FRACTIONS)
def test_rows_that_come_move_none(keys: list[str], others: list[str], fraction: float) -> None:
    before, after = sides(keys, fraction), sides([*others, *keys], fraction)
    moved = {key for key, side in before.items() if after[key] != side}
    # None but the one that stood in for a side that was empty.
    assert all(before[key] != below(key, fraction) for key in moved)
    assert len(moved) <= 1


@given(KEYS, FRACTIONS)
def test_equal_keys_are_on_one_side_and_no_side_is_empty(keys: list[str], fraction: float) -> None:
    held = held_out([*keys, *reversed(keys)], fraction).tolist()
    assert held[: len(keys)] == held[: len(keys) - 1 : -1]
    validated = {key for key, is_held in zip(keys, held, strict=False) if is_held}
    assert 0 < len(validated) < len(set(keys))
    assert not validated & {key for key, is_held in zip(keys, held, strict=False) if not is_held}


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_the_fraction_is_kept_of_many(fraction: float) -> None:
    # Three standard deviations of a coin thrown so often.
    tolerance = 3 * (fraction * (1 - fraction) / len(WORDS)) ** 0.5
    assert held_out(WORDS, fraction).mean() == pytest.approx(fraction, abs=tolerance)


def test_one_row_at_least_on_each_side() -> None:
    keys = ["word 0", "word 1", "word 4"]
    assert held_out(keys, 1e-9).tolist() == [False, False, True]  # the smallest validates
    assert held_out(keys, 1 - 1e-9).tolist() == [True, False, True]  # the largest trains


@given(st.lists(st.text(max_size=3), max_size=40), st.integers(1, 45))
def test_a_sample_is_part_of_a_larger_one_and_in_order(texts: list[str], count: int) -> None:
    some, more = sampled(texts, count).tolist(), sampled(texts, count + 1).tolist()
    assert len(some) == min(count, len(texts))
    assert some == sorted(set(some))
    assert set(some) <= set(more)


@given(st.lists(st.text(max_size=3), min_size=1, max_size=40), st.text(max_size=3))
def test_a_row_that_comes_pushes_one_out_of_the_sample_at_most(
    texts: list[str], other: str
) -> None:
    before = sampled(texts, 10).tolist()
    after = [row - 1 for row in sampled([other, *texts], 10).tolist()]
    assert len(set(before) - set(after)) <= 1
    assert set(after) - {-1} <= set(before)


def test_the_sample_has_nothing_to_do_with_the_split() -> None:
    sample = [WORDS[i] for i in sampled(WORDS, 5000)]
    assert held_out(sample, 0.1).mean() == pytest.approx(0.1, abs=0.013)


def test_what_was_split_by_its_plain_hash_can_be_split_again() -> None:
    plain = [int(hashlib.sha256(word.encode()).hexdigest()[:16], 16) / 2**64 for word in WORDS]
    train = [word for word, number in zip(WORDS, plain, strict=True) if number >= 0.2]
    assert held_out(train, 0.1).mean() == pytest.approx(0.1, abs=0.007)
