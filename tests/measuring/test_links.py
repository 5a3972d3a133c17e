import pytest

from afcore.launch.torchrun import LaunchWithTorchrun
from afcore.measuring.links import fit_ring, measure_links
from afcore.storage import Storage


@pytest.mark.parametrize("num_workers", [2, 3, 8])
@pytest.mark.parametrize(("alpha", "beta"), [(5e-5, 1.2e9), (2e-6, 5e10)])
def test_the_ring_formula_is_found_again(num_workers: int, alpha: float, beta: float) -> None:
    steps = 2 * (num_workers - 1)
    took = {
        size: steps / num_workers * size / beta + steps * alpha for size in (4096, 2**20, 2**25)
    }
    assert fit_ring(num_workers, took) == pytest.approx((alpha, beta), rel=1e-6)


def test_seconds_that_do_not_grow_with_size_mean_no_limit() -> None:
    alpha, beta = fit_ring(2, {4096: 1e-4, 2**20: 1e-4})
    assert alpha == pytest.approx(5e-5)
    assert beta > 1e15


def test_two_workers_of_this_machine(local_storage: Storage) -> None:
    found = measure_links(LaunchWithTorchrun(), local_storage, 2, threads=1)
    assert found.num_workers == 2
    assert 1e-7 < found.latency_seconds < 0.1
    assert 1e6 < found.bytes_per_second < 1e12
    assert 0 < found.startup_seconds < 60
    assert 1 <= found.contention < 10
    assert not local_storage.list("probes")
