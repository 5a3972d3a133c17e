"""How many versions of a registered model are kept: the newest, and those that have an alias.

::

    retrain/<model>/registry.json  where its versions are, and how many of them are kept

A version is an entry of MLflow's registry; the model's files are its run's, and stay with it.
"""

import logging

from pydantic import BaseModel, ConfigDict

from afcore.activations.garbage import Removal
from afcore.config import Config
from afcore.errors import AutoFreezeError, LeaseHeldError
from afcore.retraining.looking import model_folder, retrain_lease
from afcore.runs.run import read_record
from afcore.storage.objects import Storage
from afcore.storage.store_version import open_for_cleaning
from afcore.tracking.registry import ModelRegistry

__all__ = ["KeptVersions", "collect_versions", "note_kept_versions"]

_log = logging.getLogger(__name__)


class KeptVersions(BaseModel):
    """``registry.json``: as the last retraining was configured; ``keep`` None keeps all."""

    model_config = ConfigDict(frozen=True)

    model: str
    tracking_uri: str
    experiment: str
    keep: int | None


def note_kept_versions(storage: Storage, config: Config) -> None:
    """Record for :func:`collect_versions` what a configuration says."""
    kept = KeptVersions(
        model=config.registered_model,
        tracking_uri=config.tracking.uri,
        experiment=config.tracking.experiment,
        keep=config.retrain.keep_versions,
    )
    key = f"{model_folder(kept.model)}/registry.json"
    if read_record(storage, key, KeptVersions, replaceable=True) != kept:
        storage.put(key, kept.model_dump_json().encode())


def collect_versions(store: str, *, dry_run: bool = False) -> list[Removal]:
    """Delete versions of the store's registered models beyond ``retrain.keep_versions``.

    Those with an alias stay, and so do all of a model that is being retrained. An MLflow that
    cannot be asked is a warning.

    Args:
        store: root URI.
        dry_run: delete nothing.

    Returns:
        What was (or would be) deleted.

    Raises:
        StoreError: when there is no such store, or it cannot be used.
    """
    storage = open_for_cleaning(store)
    removed: list[Removal] = []
    for key in storage.list("retrain"):
        if key.count("/") == 2 and key.endswith("/registry.json"):
            kept = read_record(storage, key, KeptVersions, replaceable=True)
            if kept is None or kept.keep is None:
                continue
            try:
                with retrain_lease(storage, kept.model):
                    removed += _collect(kept, kept.keep, dry_run)
            except LeaseHeldError as held:
                _log.info("%s; its versions are left alone", held)
            except AutoFreezeError as error:
                _log.warning("versions of %r are left alone: %s", kept.model, error)
    return removed


def _collect(kept: KeptVersions, keep: int, dry_run: bool) -> list[Removal]:
    registry = ModelRegistry(kept.tracking_uri, kept.experiment)
    old = registry.versions(kept.model)[keep:]
    named = registry.aliases(kept.model) if old else {}  # there may be no such model yet
    removed = []
    for version in old:
        if version.version in named.values():
            continue
        why = f"has no alias, and is not among the last {keep} versions"
        removed.append(Removal(version.uri, why, 0))
        if not dry_run:
            registry.delete(version)
    return removed
