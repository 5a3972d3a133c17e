"""Prices from the shipped table, from a user's own, and from the configuration."""

from pathlib import Path

import pytest
import yaml

from afcore.config import PricesConfig
from afcore.cost import Prices, Usage, cost_usd
from afcore.errors import ConfigError
from afcore.prices import SHIPPED, load_prices, resolve_prices

OWN = {
    "gpus": {
        "aws/h100": {"on_demand_usd": 5.0, "as_of": "2026-01", "source": "our contract"},
        "ours/b200": {"on_demand_usd": 7.0, "as_of": "2026-01", "source": "our contract"},
    }
}
S3 = (0.023, 0.005, 0.0004, 0.0)


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN))
    return str(path)


@pytest.mark.parametrize(
    ("settings", "prices"),
    [
        ({}, Prices(1.0, 0.023, 0.005, 0.0004, 0.0)),
        ({"gpu_hour_usd": 2.0, "get_usd_per_1000": 0}, Prices(2.0, 0.023, 0.005, 0.0, 0.0)),
        ({"gpu": "aws/h100"}, Prices(6.88, *S3)),
        ({"gpu": "aws/h100", "spot": True}, Prices(2.25, *S3)),
        ({"gpu": "gcp/p100"}, Prices(1.46, 0.02, 0.005, 0.0004, 0.0)),
        # No store of its own: the round figures.
        ({"gpu": "lambda/h100"}, Prices(2.99, 0.023, 0.005, 0.0004, 0.0)),
        ({"gpu": "aws/h100", "gpu_hour_usd": 3.0}, Prices(3.0, *S3)),
        ({"egress_usd_per_gb": 0.09}, Prices(1.0, 0.023, 0.005, 0.0004, 0.09)),
        ({"gpu": "aws/l4", "spot": True, "gpu_hour_usd": 0.3}, Prices(0.3, *S3)),
    ],
)
def test_what_was_given_wins_over_the_table(settings: dict[str, object], prices: Prices) -> None:
    assert resolve_prices(PricesConfig.model_validate(settings)) == prices


def test_entries_of_ones_own_win_over_those_shipped(own: str) -> None:
    def hour(gpu: str, **settings: object) -> float:
        config = PricesConfig.model_validate({"gpu": gpu, "table": own} | settings)
        return resolve_prices(config).gpu_hour_usd

    assert hour("aws/h100") == 5.0
    assert hour("ours/b200") == 7.0
    assert hour("aws/t4") == 0.526
    with pytest.raises(ConfigError, match="no spot price is known of 'aws/h100'"):
        hour("aws/h100", spot=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpu": "aws/h1000"}, "no price is known of 'aws/h1000'; known are aws/a100-40gb, "),
        ({"gpu": "aws/l4", "spot": True}, "no spot price is known of 'aws/l4'; known are those of"),
        ({"table": "nowhere.yaml"}, "cannot read "),
    ],
)
def test_a_missing_price_is_one_message(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_prices(PricesConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("gpus: [", "is not YAML"),
        ("- a", "must hold a mapping"),
        (
            "gpus: {a/b: {on_demand: 1, as_of: x, source: y}}",
            "did you mean 'gpus.a/b.on_demand_usd'",
        ),
        (
            "gpus: {a/b: {on_demand_usd: -1, as_of: x, source: y}}",
            "gpus.a/b.on_demand_usd: got -1; input",
        ),
        (
            "gpus: {a/b: {on_demand_usd: .inf, as_of: x, source: y}}",
            "gpus.a/b.on_demand_usd: got inf; input should be a finite number",
        ),
        ("gpus: {a/b: {on_demand_usd: 1, as_of: x}}", "missing key 'gpus.a/b.source'"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        resolve_prices(PricesConfig(table=str(path)))


def test_every_shipped_entry_says_when_and_where_from() -> None:
    table = load_prices()
    entries = [*table.gpus.values(), *table.stores.values()]
    assert len(entries) >= 15
    assert all(entry.as_of >= "2020" and len(entry.source) > 10 for entry in entries)
    assert all("/" in name for name in table.gpus)
    assert (SHIPPED / "prices.yaml").exists()


def test_bytes_that_leave_are_charged() -> None:
    usage = Usage(0.0, egress_bytes=2_000_000_000)
    assert cost_usd(usage, Prices(0, 0, 0, 0, 0.09)) == pytest.approx(0.18)
