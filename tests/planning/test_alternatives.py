"""Epochs by boundary and number of workers."""

import pytest

from afcore.planning.alternatives import weigh_workers
from afcore.planning.forecast import Resources
from tests.planning.test_resources import PRICES, choose, scalable
from tests.planning.test_scaling import RUN


@pytest.mark.parametrize(("caches", "read_boundaries"), [(True, [0, 1, 2, 3]), (False, [0] * 4)])
def test_each_boundary_is_what_would_be_chosen(caches: bool, read_boundaries: list[int]) -> None:
    resources = Resources(max_workers=4, batch_size=12)
    rows = weigh_workers(scalable(), RUN, resources, PRICES, caches=caches)
    assert [row.boundary for row in rows] == [0, 1, 2, 3]
    assert [row.read_boundary for row in rows] == read_boundaries
    for row in rows:
        assert [one.num_workers for one in row.alternatives] == [1, 2, 3, 4]
        for mode in ("performance", "efficiency"):
            decision = choose(row.boundary, row.read_boundary, mode=mode)
            assert row.chosen[mode] == decision.num_workers
    assert rows[0].chosen["efficiency"] == 4
    assert rows[3].chosen["efficiency"] < 4
    assert rows[0].limit_seconds == rows[3].limit_seconds
