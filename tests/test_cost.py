import pytest

from afcore.cost import Prices, Usage, cost_usd

PRICES = Prices(
    gpu_hour_usd=2.0, storage_gb_month_usd=0.02, put_usd_per_1000=0.005, get_usd_per_1000=0.0004
)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(worker_seconds=1800), 1.0),
        (Usage(0, bytes_stored=3_000_000_000), 0.06),
        (Usage(0, puts=2000), 0.01),
        (Usage(0, gets=5000), 0.002),
        (Usage(3600, 1_000_000_000, 1000, 1000), 2.0 + 0.02 + 0.005 + 0.0004),
    ],
)
def test_dollars(usage: Usage, dollars: float) -> None:
    assert cost_usd(usage, PRICES) == pytest.approx(dollars)
