"""Descriptions of clusters and workloads, from YAML; those that are shipped go by their names."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from afcore.config import PricesConfig
from afcore.errors import ConfigError
from afcore.planning.described import Cluster, Workload
from afcore.prices import SHIPPED

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
    try:
        tree: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(found.stem for found in shipped.glob("*.yaml")))
        raise ConfigError(
            f"--{folder[:-1]} {name}: {error.strerror}; give a YAML file, or one of {known}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{name}: {problems}") from error


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    message = problem["msg"]
    if problem["type"] in ("missing", "extra_forbidden"):
        return f"{where}: {message[:1].lower()}{message[1:]}"
    return f"{where}: got {problem['input']!r}; {message[:1].lower()}{message[1:]}"
