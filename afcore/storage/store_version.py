"""Which layout a store has, written at its root, so that no version spoils what another wrote.

Names of runs and sets hold the version of their own format, and one of another format is not found.
This is for the layout itself: where things lie, and what may be deleted.
"""

import json
import time

from afcore.errors import StorageFullError, StoreError
from afcore.storage.objects import Storage

__all__ = [
    "STORE_SCHEMA",
    "check_store_version",
    "mark_store_version",
    "open_for_cleaning",
    "time_for_cleaning",
]

STORE_SCHEMA = 1
_KEY = "store.json"


def mark_store_version(storage: Storage) -> None:
    """Write it where there is none, as in stores of before; else see that it is known.

    Raises:
        StoreError: as :func:`check_store_version`.
    """
    if not storage.put_new(_KEY, json.dumps({"schema": STORE_SCHEMA}).encode()):
        check_store_version(storage)


def open_for_cleaning(root: str) -> Storage:
    """A store in which this version may tell what can be deleted.

    Raises:
        StoreError: when there is no such store, it cannot be used, or it is of a later version.
    """
    storage = Storage(root)
    check_store_version(storage)
    storage.check_there()
    return storage


def time_for_cleaning(storage: Storage, dry_run: bool) -> float:
    """Until when ages are counted; seconds since the epoch, by the clock that dated the objects.

    That of this machine may be wrong. It serves where that harms nobody: for a dry run in a store
    that cannot be written, and in a folder, as on a disk that is full.

    Raises:
        StoreError: when the store cannot be written, and is to be.
    """
    try:
        return storage.time()
    except (StoreError, StorageFullError):
        if not dry_run and storage.protocol != "file":
            raise
        return time.time()


def check_store_version(storage: Storage) -> None:
    """See that this version knows the layout; a store without a mark is of the first.

    Raises:
        StoreError: when it is of a later version, or nobody can tell.
    """
    try:
        schema = json.loads(storage.get(_KEY))["schema"]
        known = 1 <= schema <= STORE_SCHEMA
    except KeyError:
        return
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"{storage.uri(_KEY)} is damaged, so nobody can tell which version of AutoFreeze wrote "
            "this store. If it was this one, delete that file."
        ) from error
    if not known:
        raise StoreError(
            f"the store {storage.root} has the layout {schema}, of a later version of AutoFreeze; "
            f"this one knows up to {STORE_SCHEMA}, and leaves it alone. Upgrade: pip install "
            "--upgrade autofreeze; or give another store."
        )
