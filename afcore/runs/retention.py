"""How long runs are kept: what a store has of them, and what of it can go.

Deleted, in this order:

1. runs that nobody worked on for a given time, finished or not, with everything that is theirs
   alone; their models stay in MLflow;
2. tokens that no run names any more;
3. checkpoints of runs whose model is in MLflow: ``run --output`` then takes it from there.

Activation sets that runs share are not touched: ``cache gc`` sees which of them nobody can read
again. What a live run may need is never deleted.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from afcore.activations.garbage import Removal
from afcore.activations.maintenance import duration
from afcore.errors import IntegrityError, LeaseHeldError
from afcore.results.report import RunReport
from afcore.runs.run import Run, find_run, lease_folder, read_record, record_key, result_key
from afcore.storage.lease import Lease, is_held
from afcore.storage.objects import Storage, Stored
from afcore.storage.store_version import check_store_version

__all__ = ["State", "StoredRun", "collect_runs", "list_runs"]

State: TypeAlias = Literal["at work", "published", "finished", "unfinished", "damaged"]


@dataclass
class StoredRun:
    """A run, as it lies in the store.

    Attributes:
        run_id: its folder.
        objects: of it, by key.
        state: ``published`` is finished, with its model in MLflow.
        run: its record; None where that is gone or damaged.
        report: of a finished run.
    """

    run_id: str
    objects: dict[str, Stored] = field(default_factory=dict)
    state: State = "unfinished"
    run: Run | None = None
    report: RunReport | None = None

    @property
    def num_bytes(self) -> int:
        """Of all of it."""
        return sum(stored.num_bytes for stored in self.objects.values())

    @property
    def checkpoints(self) -> dict[str, Stored]:
        """Parts of the training that counts."""
        folder = f"{self.run.parts_folder}/" if self.run is not None else None
        return {
            key: stored
            for key, stored in self.objects.items()
            if folder is not None and key.startswith(folder)
        }

    @property
    def idle_seconds(self) -> float:
        """Since something was last written."""
        return time.time() - max(stored.modified for stored in self.objects.values())


def list_runs(storage: Storage) -> list[StoredRun]:
    """Every run, the one that was worked on last first.

    Raises:
        StoreError: when the store cannot be listed.
    """
    found: dict[str, StoredRun] = {}
    for key, stored in storage.listing("runs").items():
        if key.count("/") >= 2:
            run_id = key.split("/")[1]
            found.setdefault(run_id, StoredRun(run_id)).objects[key] = stored
    for one in found.values():
        _look(storage, one)
    return sorted(found.values(), key=lambda one: one.idle_seconds)


def _look(storage: Storage, found: StoredRun) -> None:
    try:
        found.run = find_run(storage, found.run_id)
    except IntegrityError:
        found.state = "damaged"
    if found.run is not None:
        found.report = read_record(storage, result_key(found.run), RunReport, replaceable=True)
    if found.report is not None:
        found.state = "published" if found.report.mlflow_run_id else "finished"
    if is_held(storage, lease_folder(found.run_id)):
        found.state = "at work"


def collect_runs(
    store: str,
    *,
    max_idle_seconds: float,
    published_idle_seconds: float = 0.0,
    dry_run: bool = False,
) -> list[Removal]:
    """Delete what the module says.

    Args:
        store: root URI.
        max_idle_seconds: runs that nobody worked on for so long go.
        published_idle_seconds: of a published run, after which its checkpoints go.
        dry_run: delete nothing.

    Returns:
        What was (or would be) deleted.

    Raises:
        StoreError: when there is no such store, or it cannot be used.
    """
    storage = Storage(store)
    check_store_version(storage)
    storage.check_there()
    runs = list_runs(storage)
    idle = [run for run in runs if run.state != "at work" and run.idle_seconds >= max_idle_seconds]
    removed = [
        Removal(
            f"runs/{run.run_id}",
            f"{run.state}, not worked on for {duration(run.idle_seconds)}",
            run.num_bytes,
        )
        for run in idle
        if dry_run or _delete(storage, run.run_id)
    ]
    gone = {removal.folder for removal in removed}
    left = [run for run in runs if f"runs/{run.run_id}" not in gone]
    removed += _unnamed_tokens(storage, left, max_idle_seconds, dry_run)
    for run in left:
        checkpoints = run.checkpoints
        if run.state == "published" and checkpoints and run.idle_seconds >= published_idle_seconds:
            assert run.run is not None
            size = sum(stored.num_bytes for stored in checkpoints.values())
            removed.append(Removal(run.run.parts_folder, "its model is in MLflow", size))
            if not dry_run:
                storage.delete_folder(run.run.parts_folder)
    return removed


def _delete(storage: Storage, run_id: str) -> bool:
    """Whether nobody works on it, so that it could be deleted."""
    lease = lease_folder(run_id)
    try:
        with Lease(storage, lease, f"run {run_id}", logged=False):
            # First: what a kill then leaves behind, `cache gc` takes for what it is.
            storage.delete(record_key(run_id))
            for key in storage.list(f"runs/{run_id}"):
                if not key.startswith(f"{lease}/"):
                    storage.delete(key)
    except LeaseHeldError:
        return False
    return True


def _unnamed_tokens(
    storage: Storage, runs: list[StoredRun], max_idle_seconds: float, dry_run: bool
) -> Iterator[Removal]:
    """Prepared data of no run; not where a run's record is damaged, which may name any."""
    if any(run.state == "damaged" for run in runs):
        return
    named = {run.run.record.data[:32] for run in runs if run.run is not None}
    folders: dict[str, list[Stored]] = {}
    for key, stored in storage.listing("data").items():
        if key.count("/") >= 2:
            folders.setdefault(key.split("/")[1], []).append(stored)
    for digest, objects in folders.items():
        idle = time.time() - max(stored.modified for stored in objects)
        if digest in named or idle < max_idle_seconds:
            continue
        yield Removal(f"data/{digest}", "tokens of no run", sum(one.num_bytes for one in objects))
        if not dry_run:
            storage.delete_folder(f"data/{digest}")
