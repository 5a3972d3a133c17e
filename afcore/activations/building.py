"""One builder at a time: whoever wants a set that is being built waits for it, or takes over.

The right to build a set, or to evict it, is a lease (:mod:`afcore.storage.lease`) in the set's
folder. It saves work; it is not what keeps a set whole: writers never share an object, and the
first manifest wins, whoever holds the lease.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from afcore.activations.manifest import ActivationManifest
from afcore.activations.sets import ActivationSet, kept_by_others, open_set, prefix_key, users_of
from afcore.activations.stored_sets import ARRAYS, array_name
from afcore.errors import IntegrityError, LeaseHeldError, LeaseLostError, StoppedError
from afcore.interrupt import stop_requested
from afcore.storage.lease import Lease, is_held
from afcore.storage.objects import Storage

__all__ = [
    "Opened",
    "build_lease",
    "delete_parts",
    "evict",
    "is_being_built",
    "is_read",
    "open_or_build",
    "open_sound",
]

_POLL_SECONDS = 0.5
_PROGRESS_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """A set, whether it was built here, and the seconds that building or waiting took."""

    activation_set: ActivationSet
    built: bool
    seconds: float


def open_or_build(
    storage: Storage,
    folder: str,
    build: Callable[[Callable[[], None]], ActivationSet],
    *,
    what: str,
    num_bytes: int,
    note_use: Callable[[ActivationSet], None],
) -> Opened:
    """Open a set; when there is none, build it, or wait for who is building it.

    Args:
        storage: where.
        folder: of the set.
        build: called without a set there; it calls its argument now and then, which raises
            :class:`LeaseLostError` when another builder took over.
        what: the set's name in messages.
        num_bytes: of the whole set.
        note_use: notes this run as a user, so that the set is not collected.

    Raises:
        StoppedError: when this process was asked to stop while it waited.
    """
    began, shown = time.perf_counter(), float("-inf")
    seconds = 0.0
    while True:
        found = open_sound(storage, folder)
        if found is not None:
            note_use(found)
            # Who evicts looks for users last of all; if that was before this note, it is gone now.
            if storage.exists(_manifest(folder)):
                return Opened(found, built=False, seconds=seconds)
        try:
            with build_lease(storage, folder, what) as lease:
                if open_sound(storage, folder) is None:
                    delete_parts(storage, folder)
                    made = build(lease.check)
                    note_use(made)
                    return Opened(made, built=True, seconds=time.perf_counter() - began)
        except LeaseHeldError as held:
            if stop_requested():  # it may take hours, and nothing of this run is lost
                raise StoppedError(f"while {what} was built by another run") from held
            if time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                done = sum(storage.list(f"{folder}/shards").values())
                _log.info(
                    "waiting: %.0f of %.0f MB are there. %s", done / 1e6, num_bytes / 1e6, held
                )
            time.sleep(_POLL_SECONDS)
        except LeaseLostError as lost:
            _log.warning("%s; waiting for it", lost)
        seconds = time.perf_counter() - began


def open_sound(storage: Storage, folder: str) -> ActivationSet | None:
    """Open a set; one whose manifest or index is damaged counts as none."""
    try:
        found = open_set(storage, folder)
        if found is not None:
            _ = found.layout
    except IntegrityError as error:
        _log.warning("%s; building the set again", error)
        return None
    return found


def build_lease(storage: Storage, folder: str, what: str) -> Lease:
    """The right to build or evict the set in ``folder``."""
    return Lease(storage, _lease_folder(folder), what, logged=False)


def is_being_built(storage: Storage, folder: str) -> bool:
    """Whether a live process builds or evicts it."""
    return is_held(storage, _lease_folder(folder))


def is_read(storage: Storage, folder: str) -> bool:
    """Whether a run at work has noted itself for a set, as it is now."""
    return any(is_held(storage, f"{run}/lease", watched=True) for run in users_of(storage, folder))


def evict(storage: Storage, folder: str, in_use: Callable[[], bool]) -> bool:
    """Delete a committed set, unless a run uses it.

    The manifest goes first, so that nobody opens half a set. A run that opened it just before has
    noted itself by now, or will see that the manifest is gone.

    Returns:
        Whether it was deleted.
    """
    try:
        with build_lease(storage, folder, f"set {folder}"):
            return _evict(storage, folder, in_use)
    except LeaseHeldError:
        return False


def _evict(storage: Storage, folder: str, in_use: Callable[[], bool]) -> bool:
    try:
        content = storage.get(_manifest(folder))
    except KeyError:
        return False
    if in_use():
        return False
    storage.delete(_manifest(folder))
    if in_use():
        storage.put_new(_manifest(folder), content)
        return False
    with contextlib.suppress(ValueError):  # a damaged one has no note
        manifest = ActivationManifest.from_json(content)
        storage.delete(prefix_key(folder, manifest.recipe))
    delete_parts(storage, folder)
    storage.delete_folder(f"{folder}/users")
    return True


def delete_parts(storage: Storage, folder: str) -> None:
    """Delete shards, indices and manifest: of an evicted set, a dead builder, a damaged set.

    Shards that another set keeps stay.
    """
    storage.delete(_manifest(folder))
    kept, start = kept_by_others(storage, folder), len(folder) + 1
    parts = (key[start:] for key, _ in storage.walk(folder))
    storage.delete_all(
        f"{folder}/{part}"
        for part in parts
        if part.startswith(ARRAYS) and array_name(part) not in kept
    )


def _lease_folder(folder: str) -> str:
    return f"{folder}/build"


def _manifest(folder: str) -> str:
    return f"{folder}/manifest.json"
