"""Shards that are not held, loaded by threads ahead of the batches that need them."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy.typing as npt

from afcore.errors import IntegrityError

__all__ = ["ShardStream"]

_Rows = npt.NDArray[Any]


class ShardStream:
    """Holds each shard from before the first batch that needs it until after the last.

    Args:
        needs: for each batch the shards it needs.
        load: reads a shard; called in the executor's threads.
        repair: called in the thread that asks, where ``load`` found a shard damaged.
        executor: of the loading.
        max_shards: loaded at a time; more only where a batch needs them at once.
    """

    def __init__(
        self,
        needs: Sequence[Sequence[int]],
        load: Callable[[int], _Rows],
        repair: Callable[[int], _Rows],
        executor: Executor,
        max_shards: int,
    ) -> None:
        self._needs = needs
        self._load = load
        self._repair = repair
        self._executor = executor
        self._max_shards = max_shards
        self._last_use = {shard: number for number, need in enumerate(needs) for shard in need}
        self._to_load = deque(dict.fromkeys(shard for need in needs for shard in need))
        self._loading: dict[int, Future[_Rows]] = {}
        self._rows: dict[int, _Rows] = {}
        self._load_ahead()

    def rows(self, number: int) -> dict[int, _Rows]:
        """Rows of the shards that batch ``number`` needs; waits for them.

        Batches are asked for in their order.
        """
        for shard in self._needs[number]:
            while shard not in self._rows and shard not in self._loading:
                self._load_next()
            if shard not in self._rows:
                try:
                    self._rows[shard] = self._loading[shard].result()
                except IntegrityError:
                    self._rows[shard] = self._repair(shard)
                del self._loading[shard]
        return {shard: self._rows[shard] for shard in self._needs[number]}

    def release(self, number: int) -> None:
        """Batch ``number`` is done: let go of what no later one needs, and load on."""
        for shard in self._needs[number]:
            if self._last_use[shard] == number:
                del self._rows[shard]
        self._load_ahead()

    def _load_ahead(self) -> None:
        while self._to_load and len(self._rows) + len(self._loading) < self._max_shards:
            self._load_next()

    def _load_next(self) -> None:
        shard = self._to_load.popleft()
        self._loading[shard] = self._executor.submit(self._load, shard)
