"""Descriptions that are shipped, and mistakes in those of users."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from afcore.cluster import load_cluster, load_workload
from afcore.cost import Prices
from afcore.errors import ConfigError
from afcore.planning.described import describe
from afcore.planning.forecast import EpochSetup, forecast_epoch
from afcore.prices import SHIPPED, resolve_prices


@pytest.mark.parametrize(
    "path", sorted((SHIPPED / "clusters").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_shipped_cluster_is_complete(path: Path) -> None:
    cluster = load_cluster(path.stem)
    assert cluster == load_cluster(str(path))
    assert "Assumed" in cluster.about
    assert resolve_prices(cluster.prices).gpu_hour_usd > 0
    assert load_workload(cluster.workload).num_blocks > 1


def test_there_are_shipped_ones() -> None:
    assert {path.stem for path in (SHIPPED / "clusters").glob("*.yaml")} == {
        "paper-p100",
        "h100-8x8",
    }
    workloads = sorted(path.stem for path in (SHIPPED / "workloads").glob("*.yaml"))
    assert workloads == ["bert-base-agnews", "bert-large-agnews", "decoder-8b"]
    assert [sum(load_workload(name).num_parameters[:1]) / 1e6 for name in workloads] == [
        pytest.approx(109.5, abs=0.1),
        pytest.approx(335.1, abs=0.1),
        pytest.approx(7505, abs=1),
    ]


@pytest.mark.parametrize(("num_workers", "seconds"), [(1, 0.29), (64, 8.9)])
def test_the_paper_cluster_gives_the_published_iterations(num_workers: int, seconds: float) -> None:
    cluster, workload = load_cluster("paper-p100"), load_workload("bert-base-agnews")
    profile, work, _ = describe(cluster, workload, 6 * num_workers, Prices(1.0, 0.0, 0.0, 0.0))
    setup = EpochSetup(boundaries=[0], num_workers=num_workers)
    forecast = forecast_epoch(profile, replace(work, statistics=False), setup)
    assert forecast.train_seconds / work.num_steps == pytest.approx(seconds, rel=0.01)


def test_a_frozen_block_of_bert_saves_what_the_paper_says() -> None:
    parameters = load_workload("bert-base-agnews").num_parameters
    assert 4 * (parameters[1] - parameters[2]) / 2**20 == pytest.approx(27, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_flop": 1}, "unknown key 'gpu_flop'; did you mean 'gpu_flops'?"),
        ({"gpu_flops": None}, "missing key 'gpu_flops'"),
        ({"num_nodes": 0}, "num_nodes: got 0; input should be greater than or equal to 1"),
        ({"network": {"latency_seconds": 0}}, "missing key 'network.bytes_per_second'"),
        ({"prices": {"gpu_hour": 1}}, "did you mean 'prices.gpu_hour_usd'?"),
    ],
)
def test_a_wrong_key_is_named(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    tree = yaml.safe_load((SHIPPED / "clusters" / "h100-8x8.yaml").read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in tree.items() if v is not None}))
    with pytest.raises(ConfigError, match=r"mine\.yaml: ") as caught:
        load_cluster(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            r"cannot read --cluster .*nowhere.*: No such file .*Give a YAML file, or one of h",
        ),
        ("{tmp}", "Is a directory"),
        ("{tmp}/bad.yaml", "is not YAML"),
        ("{tmp}/list.yaml", "must hold a mapping"),
    ],
)
def test_a_file_that_is_no_description(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match=message):
        load_cluster(name.format(tmp=tmp_path))
