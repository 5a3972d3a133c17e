"""The model of a finished run as a folder, as ``save_pretrained`` leaves it, with a model card.

Adapters are merged into it, and lie in its folder ``adapter`` as PEFT saves them.
"""

import logging
import os
from pathlib import Path
from typing import Any

from afcore.config import PEER_MODES, Config
from afcore.errors import ConfigError, IntegrityError, StoreError
from afcore.model.processors import processor_of
from afcore.results.model_card import model_card
from afcore.results.report import RunReport
from afcore.runs.publish import described, finished_report, published_model, write_adapters
from afcore.runs.run import Run, open_run
from afcore.storage.outputs import check_folder, new_folder
from afcore.tracking.tracker import Tracker

__all__ = ["check_output", "write_model_folder"]

_log = logging.getLogger(__name__)

_ADAPTERS = "adapter"


def check_output(output: str, config: Config) -> Path:
    """The folder's path, if it can be written; asked before hours of work.

    What the run reads is not for it to replace.

    Raises:
        ConfigError: when it cannot, or holds anything but a model that was written so.
    """
    folder = check_folder(output)
    data = config.data
    read: list[Any] = [config.model.name, config.store, os.getcwd()]
    for split in (data.train, data.validation, data.test):
        read += split if isinstance(split, tuple) else [split]
    for source in (source for source in read if isinstance(source, str)):
        if Path(os.path.realpath(os.path.expanduser(source))).is_relative_to(folder):
            raise ConfigError(f"--output {output}: {source} is read or in use. Give another folder")
    return folder


def write_model_folder(config: Config, run_id: str, folder: Path) -> None:
    """Write weights, tokenizer and card of a finished run; nothing is trained.

    Args:
        config: of the command, whose names of columns and files may be newer than the run's.
        run_id: of the run.
        folder: as :func:`afcore.storage.outputs.check_folder` gave it; there whole or not at all.

    Raises:
        StoreError: when the run is not finished.
        UserError: when the model cannot be had, or the folder not be written.
        IntegrityError: when what the store holds of it is damaged.
    """
    run = open_run(config.store, run_id)
    report = finished_report(run.storage, run_id)
    if report is None:
        raise StoreError(f"run {run_id} in {config.store} is not finished; there is no model yet")
    record = run.record.model_copy(
        update={
            "config": run.config.model_copy(update={"data": config.data, "model": config.model})
        }
    )
    model = described(Run(run.storage, record), _best_model(run, report))
    processor = processor_of(config)
    with new_folder(folder) as draft:
        model.save_pretrained(draft)
        processor.save_pretrained(draft)
        adapters = _ADAPTERS if _write_adapters(run, report, draft / _ADAPTERS) else None
        card = model_card(report, record.task, record.data, config, adapters)
        (draft / "README.md").write_text(card, encoding="utf-8")
        # Weights are written for their owner alone.
        for file in (path for path in draft.rglob("*") if path.is_file()):
            file.chmod((draft / "README.md").stat().st_mode)


def _best_model(run: Run, report: RunReport) -> Any:
    """On the CPU, of the run's checkpoints; where there are none any more, from MLflow.

    The Trainer's modes leave no checkpoints, and `runs gc` deletes those of published runs.
    """
    if run.config.mode not in PEER_MODES:
        try:
            return published_model(run, report.totals.best_epoch).model.cpu()
        except IntegrityError:
            if not _is_in_mlflow_alone(run, report):
                raise
    assert report.mlflow_run_id is not None
    return _tracker(run).load_model(report.mlflow_run_id, run.record.task.auto_class)


def _write_adapters(run: Run, report: RunReport, folder: Path) -> bool:
    """As :func:`.write_adapters`; from MLflow, where the checkpoints are no more."""
    try:
        return write_adapters(run, report.totals.best_epoch, folder)
    except IntegrityError:
        if not _is_in_mlflow_alone(run, report):
            raise
    assert report.mlflow_run_id is not None
    return _tracker(run).fetch_folder(report.mlflow_run_id, folder, _ADAPTERS)


def _is_in_mlflow_alone(run: Run, report: RunReport) -> bool:
    """Whether all checkpoints of a run that was published are gone, not damaged."""
    return report.mlflow_run_id is not None and not run.storage.list(run.parts_folder)


def _tracker(run: Run) -> Tracker:
    return Tracker(run.config.tracking.uri, run.config.tracking.experiment)
