"""What runs and their epochs are called, in Prefect and in MLflow."""

import re
from typing import Any

from afcore.config import Config, SearchConfig
from afcore.results.model_title import model_title
from afcore.results.report import EpochReport
from afcore.runs.records import EpochPlan

__all__ = [
    "data_name",
    "epoch_title",
    "finished_epoch_title",
    "mlflow_run_name",
    "model_name",
    "run_title",
    "search_title",
]

_CHARACTERS = 40


def run_title(config: Config) -> str:
    """Model, data, and how it is trained."""
    how = config.mode
    if config.freezes:
        how = f"{how}, {config.freezing.policy}"
    return f"{model_name(config)} on {data_name(config)}: {how}, seed {config.training.seed}"


def search_title(config: Config) -> str:
    """Of a search: its experiment, and what is varied and repeated."""
    wanted = config.search or SearchConfig()
    parts = [key.rpartition(".")[2] for key in sorted(wanted.vary)]
    parts += [] if wanted.folds is None else [f"{wanted.folds} folds"]
    parts += [f"{wanted.seeds} seeds"] if wanted.seeds > 1 else []
    parts += [f"labels {', '.join(wanted.labels)}"] if wanted.labels else []
    return f"search-{config.tracking.experiment}: {', '.join(parts)}"


def mlflow_run_name(config: Config, run_id: str) -> str:
    """Short, as runs of an experiment mostly share model and data; unlike for unlike policies."""
    policy = f"-{config.freezing.policy}" if config.freezes else ""
    return f"{config.mode}{policy}-seed{config.training.seed}-{run_id[:6]}"


def model_name(config: Config) -> str:
    """Of the model, short."""
    return _short(model_title(config.model.name))


def data_name(config: Config) -> str:
    """Of the training set: a file's name without its ending, or the data set's."""
    train: Any = config.data.train
    first = train if isinstance(train, str) else train[0]
    more = "" if isinstance(train, str) or len(train) == 1 else f" and {len(train) - 1} more"
    name = re.match(r"[^.[]*", first.rstrip("/").rpartition("/")[2])  # of a hub set's, no [version]
    return _short((name and name[0]) or first) + more


def epoch_title(epoch: int, num_epochs: int, plan: EpochPlan | None) -> str:
    """Before it is trained; what it reads is known from the end of the epoch before."""
    title = f"epoch {epoch} of {num_epochs}"
    if plan is None:
        return title
    return f"{title}: reads {_source(plan.source)}"


def finished_epoch_title(report: EpochReport, num_epochs: int) -> str:
    """When it is done."""
    frozen = report.boundary_start
    blocks = {0: "nothing frozen", 1: "block 0 frozen"}.get(frozen, f"blocks 0-{frozen - 1} frozen")
    return f"epoch {report.epoch} of {num_epochs}: {blocks}, read from {_source(report.read_from)}"


def _source(source: str) -> str:
    return "the cache" if source.startswith("activations") else source


def _short(name: str) -> str:
    return name if len(name) <= _CHARACTERS else f"{name[: _CHARACTERS - 1]}…"
