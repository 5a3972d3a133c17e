"""How long runs are kept: what a store has of them, and what of it can go.

Deleted, in this order:

1. runs that nobody worked on for a given time, finished or not, with everything that is theirs
   alone; their models stay in MLflow;
2. likewise what studies left: who works on a trial, and epochs that trials have in common;
3. tokens that no run names any more;
4. checkpoints of runs whose model is in MLflow: ``run --output`` then takes it from there.

Activation sets that runs share are not touched: ``cache gc`` sees which of them nobody can read
again. What a live run may need is never deleted. Requests grow with pages of the listing and with
runs, memory with runs.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from afcore.activations.garbage import Removal
from afcore.activations.maintenance import duration
from afcore.digest import RecipeDigest
from afcore.errors import IntegrityError, LeaseHeldError
from afcore.results.report import RunReport
from afcore.runs.run import find_run, lease_folder, read_record, record_key, result_key
from afcore.storage.lease import Lease, is_held
from afcore.storage.objects import Storage
from afcore.storage.store_version import open_for_cleaning, time_for_cleaning
from afcore.storage.stored import Stored, StoredSum
from afcore.tasks.stored_tokens import names_of_tokens

__all__ = ["State", "StoredRun", "collect_runs", "list_runs"]

State: TypeAlias = Literal["at work", "published", "finished", "unfinished", "damaged"]


@dataclass(frozen=True)
class KnownRecord:
    """Of a run's record and its result, what is shown or decides; ``score``: of a finished run."""

    training_id: str
    parts_folder: str
    data: str
    mode: str
    model: str
    score: str = ""


@dataclass
class StoredRun(StoredSum):
    """A run, as it lies in the store; of its objects only what they add up to.

    Attributes:
        run_id: its folder.
        state: ``published`` is finished, with its model in MLflow.
        known: of its record; None where that is gone or damaged.
        part_bytes: of checkpoint parts, by training.
        has_lease: somebody worked on it.
    """

    run_id: str = ""
    state: State = "unfinished"
    known: KnownRecord | None = None
    part_bytes: Counter[str] = field(default_factory=Counter)
    has_lease: bool = False

    def add_object(self, below: str, stored: Stored) -> None:
        """One more, by its path in the run's folder."""
        self.add(stored)
        training_id, _, rest = below.partition("/")
        if training_id == "lease":
            self.has_lease = True
        elif rest.startswith("parts/"):
            self.part_bytes[training_id] += stored.num_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Of the parts of the training that counts."""
        return self.part_bytes[self.known.training_id] if self.known is not None else 0


def list_runs(storage: Storage) -> list[StoredRun]:
    """Every run, the one that was worked on last first.

    Raises:
        StoreError: when the store cannot be listed.
    """
    found: dict[str, StoredRun] = {}
    for key, stored in storage.walk("runs"):
        if key.count("/") >= 2:
            _, run_id, below = key.split("/", 2)
            found.setdefault(run_id, StoredRun(run_id=run_id)).add_object(below, stored)
    for one in found.values():
        _look(storage, one)
    return sorted(found.values(), key=lambda one: one.modified, reverse=True)


def _look(storage: Storage, found: StoredRun) -> None:
    run, report = None, None
    try:
        run = find_run(storage, found.run_id)
    except IntegrityError:
        found.state = "damaged"
    if run is not None:
        report = read_record(storage, result_key(run), RunReport, replaceable=True)
        found.known = KnownRecord(
            training_id=run.record.training_id,
            parts_folder=run.parts_folder,
            data=run.record.data[:32],
            mode=run.config.mode,
            model=run.config.model.name,
            score=report.main.shown(report.main_score) if report is not None else "",
        )
    if report is not None:
        found.state = "published" if report.mlflow_run_id else "finished"
    if found.has_lease and is_held(storage, lease_folder(found.run_id)):
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
    storage = open_for_cleaning(store)
    now = time_for_cleaning(storage, dry_run)
    runs = list_runs(storage)
    idle = [one for one in runs if one.state != "at work" and one.idle(now) >= max_idle_seconds]
    removed = [
        Removal(
            f"runs/{run.run_id}",
            f"{run.state}, not worked on for {duration(run.idle(now))}",
            run.num_bytes,
        )
        for run in idle
        if dry_run or _delete(storage, run.run_id)
    ]
    removed += _idle_studies(storage, now, max_idle_seconds, dry_run)
    gone = {removal.folder for removal in removed}
    left = [run for run in runs if f"runs/{run.run_id}" not in gone]
    removed += _unnamed_tokens(storage, left, now, max_idle_seconds, dry_run)
    for run in left:
        size = run.checkpoint_bytes
        if run.state == "published" and size and run.idle(now) >= published_idle_seconds:
            assert run.known is not None
            removed.append(Removal(run.known.parts_folder, "its model is in MLflow", size))
            if not dry_run:
                storage.delete_folder(run.known.parts_folder)
    return removed


def _delete(storage: Storage, run_id: str) -> bool:
    """Whether nobody works on it, so that it could be deleted."""
    lease = lease_folder(run_id)
    try:
        with Lease(storage, lease, f"run {run_id}", logged=False):
            # First: what a kill then leaves behind, `cache gc` takes for what it is.
            storage.delete(record_key(run_id))
            keys = (key for key, _ in storage.walk(f"runs/{run_id}"))
            storage.delete_all(key for key in keys if not key.startswith(f"{lease}/"))
    except LeaseHeldError:
        return False
    return True


def _idle_studies(
    storage: Storage, now: float, max_idle_seconds: float, dry_run: bool
) -> Iterator[Removal]:
    """What a study that was killed for good left, and what its trials had measured."""
    folders: dict[str, StoredSum] = {}
    leases: dict[str, set[str]] = {}
    for key, stored in storage.walk("searches"):
        if key.count("/") >= 2:
            folder, lease = ("/".join(key.split("/")[:depth]) for depth in (2, 3))
            folders.setdefault(folder, StoredSum()).add(stored)
            leases.setdefault(folder, set()).add(lease)
    for folder, found in folders.items():
        idle = found.idle(now)
        if idle < max_idle_seconds or any(is_held(storage, lease) for lease in leases[folder]):
            continue
        yield Removal(folder, f"of searches, not written for {duration(idle)}", found.num_bytes)
        if not dry_run:
            storage.delete_folder(folder)


def _unnamed_tokens(
    storage: Storage, runs: list[StoredRun], now: float, max_idle_seconds: float, dry_run: bool
) -> Iterator[Removal]:
    """Prepared data of no run; not where a run's record is damaged, which may name any."""
    if any(run.state == "damaged" for run in runs):
        return
    named = {
        name[:32]
        for run in runs
        if run.known is not None
        for name in names_of_tokens(storage, RecipeDigest(run.known.data))
    }
    folders: dict[str, StoredSum] = {}
    for key, stored in storage.walk("data"):
        if key.count("/") >= 2:
            folders.setdefault(key.split("/")[1], StoredSum()).add(stored)
    for digest, found in folders.items():
        if digest in named or found.idle(now) < max_idle_seconds:
            continue
        yield Removal(f"data/{digest}", "tokens of no run", found.num_bytes)
        if not dry_run:
            storage.delete_folder(f"data/{digest}")
