import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from afcore.activations.shard_stream import ShardStream
from afcore.errors import IntegrityError

NEEDS = [[4, 1], [1], [], [1, 0], [0], [2, 3], [3]]


def rows_of(shard: int) -> np.ndarray:
    return np.full((2, 2), shard)


def run(stream: ShardStream) -> int:
    """Ask for every batch; the most shards that were there at once."""
    most = 0
    for number, need in enumerate(NEEDS):
        rows = stream.rows(number)
        assert sorted(rows) == sorted(need)
        assert all((found == shard).all() for shard, found in rows.items())
        most = max(most, len(stream._rows) + len(stream._loading))
        stream.release(number)
    assert not stream._rows
    assert not stream._loading
    return most


@pytest.mark.parametrize(("max_shards", "most"), [(1, 2), (2, 2), (3, 3), (9, 5)])
def test_each_shard_is_loaded_once_and_few_at_a_time(max_shards: int, most: int) -> None:
    loaded = []

    def load(shard: int) -> np.ndarray:
        loaded.append(shard)
        return rows_of(shard)

    with ThreadPoolExecutor(2) as pool:
        assert run(ShardStream(NEEDS, load, pytest.fail, pool, max_shards)) <= most
    assert sorted(loaded) == [0, 1, 2, 3, 4]


def test_shards_are_loaded_before_they_are_asked_for() -> None:
    began = threading.Event()

    def load(shard: int) -> np.ndarray:
        if shard == 0:
            began.set()
        return rows_of(shard)

    with ThreadPoolExecutor(1) as pool:
        stream = ShardStream(NEEDS, load, pytest.fail, pool, 3)
        stream.rows(0)
        assert began.wait(10)


def test_a_damaged_shard_is_mended_by_the_thread_that_asks() -> None:
    mended = []

    def load(shard: int) -> np.ndarray:
        if shard == 2:
            raise IntegrityError("shard 2 is damaged")
        return rows_of(shard)

    def mend(shard: int) -> np.ndarray:
        mended.append((shard, threading.current_thread() is threading.main_thread()))
        return rows_of(shard)

    with ThreadPoolExecutor(2) as pool:
        run(ShardStream(NEEDS, load, mend, pool, 2))
    assert mended == [(2, True)]


def test_other_errors_reach_whoever_asks() -> None:
    def load(shard: int) -> np.ndarray:
        raise ConnectionError("the store is away")

    with ThreadPoolExecutor(2) as pool:
        stream = ShardStream(NEEDS, load, pytest.fail, pool, 2)
        with pytest.raises(ConnectionError, match="the store is away"):
            stream.rows(0)
