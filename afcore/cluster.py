"""Descriptions of clusters and workloads, from YAML; those that are shipped go by their names."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field

from afcore.config import PricesConfig
from afcore.planning.described import Cluster, Workload
from afcore.prices import SHIPPED
from afcore.yaml_files import parse, read_mapping

__all__ = ["DescribedCluster", "load_cluster", "load_workload"]

_Kind = TypeVar("_Kind", bound=BaseModel)


class DescribedCluster(Cluster):
    """With its prices, and the workload that is simulated unless another is named."""

    prices: PricesConfig = Field(default_factory=PricesConfig)
    workload: str | None = None


def load_cluster(name: str) -> DescribedCluster:
    """A file's, or a shipped one's by its name.

    Raises:
        ConfigError: naming the file and each wrong key.
    """
    return _load(name, "clusters", DescribedCluster)


def load_workload(name: str) -> Workload:
    """The same for a workload.

    Raises:
        ConfigError: naming the file and each wrong key.
    """
    return _load(name, "workloads", Workload)


def _load(name: str, folder: str, kind: type[_Kind]) -> _Kind:
    shipped = SHIPPED / folder
    path = Path(name)
    if not path.exists() and path.name == name:
        path = shipped / f"{name.removesuffix('.yaml')}.yaml"
    known = ", ".join(sorted(found.stem for found in shipped.glob("*.yaml")))
    tree = read_mapping(path, f"--{folder[:-1]}", f"Give a YAML file, or one of {known}.")
    return parse(kind, tree, name)
