"""What the rows are tonight, and what they were when this configuration was last trained.

::

    retrain/<model>/lease/         who retrains this model
                    last.json      the last retraining that went to its end
                    rows-<data>    digests of its training rows
                    moved.json     how one that has not gone to its end moved the alias

Rows are told by what they say (:mod:`afcore.data.row_digests`): another order of them, or other
bytes of the file, is no change.
"""

import contextlib
import logging
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict

from afcore.config import Config
from afcore.data.row_digests import (
    DIGEST_BYTES,
    RowDigests,
    digest_of_rows,
    row_digests,
)
from afcore.data.sources import Rows
from afcore.digest import ContentDigest, RecipeDigest, recipe_digest
from afcore.retraining.row_summary import RowSummary
from afcore.runs.identify import data_sources, decisive_settings
from afcore.runs.run import read_record
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from afcore.tasks.prepare import load_splits

__all__ = [
    "LastRetraining",
    "MovedAlias",
    "RowsTonight",
    "look",
    "model_folder",
    "note_move",
    "note_retraining",
    "recorded_move",
    "retrain_lease",
]


_NO_ROWS: RowDigests = np.empty(0, dtype=f"S{DIGEST_BYTES}")
_log = logging.getLogger(__name__)


class LastRetraining(BaseModel):
    """``last.json``: a retraining that went to its end, and what its rows were."""

    model_config = ConfigDict(frozen=True)

    configuration: RecipeDigest
    data: RecipeDigest
    splits: dict[str, ContentDigest]
    run_id: str
    version: str
    finished: float
    summary: RowSummary


class MovedAlias(BaseModel):
    """``moved.json``: what a retraining did to the alias.

    Attributes:
        retraining: which one, see :attr:`RowsTonight.retraining`.
        version: that has the alias since then.
        before: that had it; None: none did.
    """

    model_config = ConfigDict(frozen=True)

    retraining: RecipeDigest
    version: str
    before: str | None


@dataclass(frozen=True)
class RowsTonight:
    """The rows as they are now, beside those of the last retraining.

    Attributes:
        folder: in the store, of the registered model.
        configuration: names what is trained, but for the rows.
        splits: rows of the splits that are given.
        digests: of each row, by split.
        last: the last retraining that went to its end; None: there was none.
        before: digests of its training rows; none of them are known where ``last`` is None.
    """

    folder: str
    configuration: RecipeDigest
    splits: dict[str, Rows]
    digests: dict[str, RowDigests]
    last: LastRetraining | None
    before: RowDigests

    @cached_property
    def split_digests(self) -> dict[str, ContentDigest]:
        """Of each split, in any order of its rows."""
        return {name: digest_of_rows(digests) for name, digests in self.digests.items()}

    @property
    def data(self) -> RecipeDigest:
        """Names all rows of all splits."""
        return recipe_digest(self.split_digests)

    @property
    def retraining(self) -> RecipeDigest:
        """Names this retraining, until it has gone to its end: its rows, and the last one."""
        finished = self.last.finished if self.last is not None else None
        return recipe_digest([self.data, self.configuration, finished])

    @property
    def unchanged(self) -> bool:
        """Whether the last retraining had the same rows, and the same configuration."""
        last = self.last
        return last is not None and (last.data, last.configuration) == (
            self.data,
            self.configuration,
        )

    @cached_property
    def added(self) -> Rows:
        """Training rows that the last retraining did not have."""
        new = ~np.isin(self.digests["train"], self.before)
        return self.splits["train"].pick(np.flatnonzero(new))

    @property
    def num_gone(self) -> int:
        """Training rows of the last retraining that are not there any more."""
        return int((~np.isin(self.before, self.digests["train"])).sum())

    @property
    def changes(self) -> str:
        """What changed, for people."""
        num_rows = len(self.splits["train"])
        if self.last is None:
            return f"the first retraining of this model, on {num_rows:,} rows"
        parts = [f"{len(self.added):,} rows added", f"{self.num_gone:,} gone"]
        others = [n for n, d in self.split_digests.items() if self.last.splits.get(n) != d]
        parts += [f"the {name} set is another one" for name in others if name != "train"]
        if self.last.configuration != self.configuration:
            parts.append("the configuration is another one")
        return f"{num_rows:,} training rows, {', '.join(parts)}"


def model_folder(model: str) -> str:
    """In the store, of a registered model, whose name may be anything."""
    return f"retrain/{recipe_digest(model)[:16]}"


def retrain_lease(storage: Storage, model: str) -> Lease:
    """The right to retrain a registered model: schedules may overlap."""
    return Lease(storage, f"{model_folder(model)}/lease", f"retraining of {model!r}", logged=False)


def look(config: Config, storage: Storage) -> RowsTonight:
    """Read the rows, and what is recorded of the last retraining.

    Raises:
        DataError: for data that cannot be read.
    """
    splits, _ = load_splits(storage, config.task, data_sources(config))
    folder = model_folder(config.registered_model)
    last = read_record(storage, f"{folder}/last.json", LastRetraining, replaceable=True)
    before = _NO_ROWS if last is None else _rows_before(storage, folder, last)
    digests = {name: row_digests(rows) for name, rows in splits.items()}
    return RowsTonight(folder, _configuration(config), splits, digests, last, before)


def _rows_before(storage: Storage, folder: str, last: LastRetraining) -> RowDigests:
    """Digests of its training rows; none where they are damaged or gone."""
    key = _rows_key(folder, last.data)
    with contextlib.suppress(KeyError, ValueError):  # of so many bytes that they are no digests
        found = np.frombuffer(storage.get(key), dtype=_NO_ROWS.dtype)
        if digest_of_rows(found) == last.splits["train"]:
            return found
    _log.warning("%s is damaged or gone; all rows count as added", storage.uri(key))
    return _NO_ROWS


def note_move(storage: Storage, tonight: RowsTonight, version: str, before: str | None) -> None:
    """Record how the alias is about to be moved: interrupted later on, it is known who had it."""
    moved = MovedAlias(retraining=tonight.retraining, version=version, before=before)
    storage.put(f"{tonight.folder}/moved.json", moved.model_dump_json().encode())


def recorded_move(storage: Storage, tonight: RowsTonight) -> MovedAlias | None:
    """How this retraining moved the alias before it was interrupted; None: it had not."""
    moved = read_record(storage, f"{tonight.folder}/moved.json", MovedAlias, replaceable=True)
    return moved if moved is not None and moved.retraining == tonight.retraining else None


def note_retraining(
    storage: Storage, tonight: RowsTonight, run_id: str, version: str, summary: RowSummary
) -> None:
    """Record that a retraining on these rows went to its end; the last thing that it does."""
    storage.put(_rows_key(tonight.folder, tonight.data), tonight.digests["train"].tobytes())
    done = LastRetraining(
        configuration=tonight.configuration,
        data=tonight.data,
        splits=tonight.split_digests,
        run_id=run_id,
        version=version,
        finished=time.time(),
        summary=summary,
    )
    storage.put(f"{tonight.folder}/last.json", done.model_dump_json().encode())
    if tonight.last is not None and tonight.last.data != tonight.data:
        storage.delete(_rows_key(tonight.folder, tonight.last.data))


def _rows_key(folder: str, data: RecipeDigest) -> str:
    return f"{folder}/rows-{data[:16]}"


def _configuration(config: Config) -> RecipeDigest:
    """Names what is trained, but for the rows: their files may have other names every night."""
    named = config.model_dump(
        include={"task", "task_settings", "model", "data"},
        exclude={"data": {"train", "validation", "test", "encoding", "limit", "test_limit"}},
    )
    if config.retrain.start != "base":
        named["start"] = config.retrain.start
    return recipe_digest({**named, "decisive": decisive_settings(config)})
