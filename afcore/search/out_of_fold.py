"""What the trainings of folds predict of the rows that they have not seen: all rows, once each."""

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from afcore.config import Config
from afcore.data.writing import Column, open_writer
from afcore.errors import DataError
from afcore.predict import answer_columns, asked_about
from afcore.runs.identify import data_sources
from afcore.runs.publish import published_model
from afcore.runs.records import best_epoch, done_reports
from afcore.runs.run import Run, find_run, open_run
from afcore.search.search_report import MemberRow
from afcore.search.trial_run import train_member
from afcore.storage.objects import Storage
from afcore.tasks.prepare import load_splits

__all__ = ["PREDICTIONS_OPTION", "write_out_of_fold"]

PREDICTIONS_OPTION = "--predictions"
_log = logging.getLogger(__name__)


def write_out_of_fold(config: Config, members: Sequence[MemberRow], path: Path) -> None:
    """Write a CSV file with all rows of the training set, in their order.

    Its columns: ``row`` of the source, from 0; ``label``; ``prediction`` of the model that has not
    seen the row, its fold's best epoch; ``probability_...``, where the task has some; ``fold``.

    Args:
        config: of the trial.
        members: its trainings, one a fold, done; those whose runs were deleted are done again.
        path: of the file.

    Raises:
        DataError: when the training set has other rows than the folds were trained on.
    """
    sources = data_sources(config).with_names({"test": None, "validation": 0.5})  # neither is read
    storage = Storage(config.store, waits=True)
    rows = load_splits(storage, config.task, sources)[0]["train"]
    numbers, parts = [], []
    for member in members:
        run = _opened(config, storage, member, len(members))
        held, columns = _predicted(run, member)
        numbers.append(held)
        count = len(held)
        parts.append(columns | {"fold": ([member.fold] * count, pa.int64())})
    order = np.argsort(np.concatenate(numbers))
    if len(rows) != len(order):
        raise DataError(
            f"data {rows.source!r} has {len(rows)} rows now, and the folds were trained on "
            f"{len(order)}, so their predictions have no rows. Give the rows that they were "
            "trained on; or search anew, with the same command"
        )
    positions = np.arange(len(rows)) if rows.positions is None else rows.positions
    whole: dict[str, Column] = {"row": (positions.tolist(), pa.int64())}
    for labels in rows.targets.values():
        whole["label"] = (list(labels), None)
    for name, (_, kind) in parts[0].items():
        values = [value for part in parts for value in part[name][0]]
        whole[name] = ([values[at] for at in order], kind)
    with contextlib.closing(open_writer(path, "csv")) as writer:
        writer.write(whole)


def _opened(config: Config, storage: Storage, member: MemberRow, num_folds: int) -> Run:
    """A fold's run; trained again where it was deleted since."""
    if find_run(storage, member.run_id) is None:
        _log.info("%s is trained again: its run %s was deleted", member.name, member.run_id)
        config = config.replace(**{"data.fold": f"{member.fold}/{num_folds}"})
        member = train_member(config, storage, config.main_score, None, None, lambda _: True)
    return open_run(config.store, member.run_id)


def _predicted(run: Run, member: MemberRow) -> tuple[Any, dict[str, Column]]:
    """Rows of a fold, and what its best epoch's model says of them."""
    data = run.data()
    assert data.held_rows is not None
    reports = done_reports(run, len(member.epochs))
    split = published_model(run, best_epoch(reports, run.config.main_score).epoch)
    split.model.eval()
    answers = asked_about(data.task, split, data.validation, run.compute)
    return data.held_rows, answer_columns(data.task, data.validation, answers, True)
