"""One piece, trained by the flow ``finetune`` with a store of its own that is gone afterwards."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from afcore.config import Config, load_config
from afcore.runs.identify import identify_run
from afcore.runs.run import Run
from afcore.storage.objects import Storage
from bench.frontier_parts.yardstick import paid_seconds

__all__ = ["PieceTraining", "SetFacts"]

_PARTS = ("train", "materialize", "evaluate", "test", "decide", "checkpoint", "wall")
_SAMPLE = {"data.limit": 400, "data.test_limit": 200}


@dataclass(frozen=True)
class SetFacts:
    """What a data set is, and what a reference epoch on it took.

    Attributes:
        train_rows: without those that validate.
        validation_rows: scored after every epoch.
        test_rows: scored once.
        num_classes: labels.
        mean_tokens: of a training example, cut at the longest allowed.
        longest_tokens: of a training example.
        num_blocks: of the model.
        train_seconds: of a training row, nothing frozen.
        evaluate_seconds: of a row.
        around_seconds: of a run, outside of both.
    """

    train_rows: int
    validation_rows: int
    test_rows: int
    num_classes: int
    mean_tokens: float
    longest_tokens: int
    num_blocks: int
    train_seconds: float
    evaluate_seconds: float
    around_seconds: float


class PieceTraining:
    """Trains pieces under a folder, one after the other; inside of ``ephemeral_server``.

    Args:
        base: YAML file of what all pieces share.
        folder: for what a training stores while it runs.
    """

    def __init__(self, base: Path, folder: Path) -> None:
        self._base = base
        self._folder = folder
        self._warm: set[str] = set()

    def train(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What is recorded of a training with these settings."""
        self._warm_up(settings)
        totals, report = self._run(settings)
        return {
            "paid_seconds": paid_seconds(totals),
            "validation": totals["validation"],
            "test": totals["test"],
            "best_epoch": totals["best_epoch"],
            "seconds": {name: totals[f"{name}_seconds"] for name in _PARTS},
            "activation_bytes": totals["activation_bytes_written"],
            "boundaries": [epoch["boundary_end"] for epoch in report["epochs"]],
            "read_from": [epoch["read_from"] for epoch in report["epochs"]],
            "epoch_validation": [epoch["validation"] for epoch in report["epochs"]],
            "notes": report["notes"],
        }

    def look_at(self, settings: Mapping[str, Any]) -> SetFacts:
        """Count the rows of a data set, and time an epoch of a sample."""
        self._clear()
        config = self._config(settings)
        storage = Storage(config.store)
        record = identify_run(config, storage)
        data = Run(storage, record).data()
        lengths = data.train.lengths
        self._warm_up(settings)
        totals, report = self._run(_sample(settings))
        sample = report["data"]
        scored = sample["validation_examples"] + sample["test_examples"]
        return SetFacts(
            train_rows=data.train.num_rows,
            validation_rows=data.validation.num_rows,
            test_rows=data.test.num_rows if data.test is not None else 0,
            num_classes=record.task.num_outputs,
            mean_tokens=float(lengths.mean()),
            longest_tokens=int(lengths.max()),
            num_blocks=record.num_blocks,
            train_seconds=totals["train_seconds"] / sample["train_examples"],
            evaluate_seconds=totals["evaluate_seconds"] / scored,
            around_seconds=totals["wall_seconds"]
            - totals["train_seconds"]
            - totals["evaluate_seconds"],
        )

    def _warm_up(self, settings: Mapping[str, Any]) -> None:
        """A short training: kernels are made for shapes that a process meets the first time."""
        shapes = f"{settings['data.train']} {settings.get('data.max_length')}"
        if shapes not in self._warm:
            self._run(_sample(settings))
            self._warm.add(shapes)

    def _run(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        from pipelines.finetune import finetune

        self._clear()
        report = finetune(self._config(settings))
        self._clear()
        return report["totals"], report

    def _config(self, settings: Mapping[str, Any]) -> Config:
        changes = {
            **settings,
            "cache.share": False,
            "store": str(self._folder / "store"),
            "tracking.uri": f"sqlite:///{self._folder}/mlflow.db",
            "tracking.experiment": "bench-frontier",
        }
        texts = [f"{key}={yaml.safe_dump(value).splitlines()[0]}" for key, value in changes.items()]
        return load_config(str(self._base), texts)

    def _clear(self) -> None:
        """Stored and published models are of no use here, and a hundred of them are large."""
        for name in ("store", "mlartifacts"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


def _sample(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One epoch of full training on a few rows of the same data."""
    data = {name: value for name, value in settings.items() if name.partition(".")[0] != "freezing"}
    few = {name: min(settings.get(name) or most, most) for name, most in _SAMPLE.items()}
    return {**data, **few, "mode": "full", "training.epochs": 1}
