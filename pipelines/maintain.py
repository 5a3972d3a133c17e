"""The flow ``maintain``: what a nightly job leaves behind is cleaned up, on a schedule too."""

from typing import Any

from prefect import flow

from afcore.activations.garbage import collect_garbage
from afcore.retraining.version_retention import collect_versions
from afcore.runs.retention import collect_runs
from pipelines.environment import configure_logging
from pipelines.prefect_artifacts import show_deleted, wait_until_shown

__all__ = ["maintain"]

_DAY_SECONDS = 86400.0


@flow(name="maintain", flow_run_name="maintain {store}", validate_parameters=True)
def maintain(
    store: str,
    older_than_days: float = 30.0,
    published_days: float = 1.0,
    max_gb: float | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Delete old runs and versions, checkpoints of published runs, and sets that nobody needs.

    Of a registered model as many versions stay as `retrain.keep_versions` says. What a live run may
    read is never deleted. The same as `autofreeze runs gc` and then `autofreeze cache gc`.

    Args:
        store: Root of the store: a folder, or s3://BUCKET/PREFIX.
        older_than_days: Delete runs, and sets, that were not worked on or used for so many days.
        published_days: After so many days, delete checkpoints of runs whose model is in MLflow.
        max_gb: Then delete the least recently used until so many GB are left.
        dry_run: Say what would be deleted, but delete nothing.
    """
    configure_logging()
    removals = collect_runs(
        store,
        max_idle_seconds=older_than_days * _DAY_SECONDS,
        published_idle_seconds=published_days * _DAY_SECONDS,
        dry_run=dry_run,
    )
    removals += collect_versions(store, dry_run=dry_run)
    removals += collect_garbage(
        store,
        max_idle_seconds=older_than_days * _DAY_SECONDS,
        max_bytes=None if max_gb is None else int(max_gb * 1e9),
        dry_run=dry_run,
    )
    rows = [{"what": r.folder, "why": r.why, "MB": f"{r.num_bytes / 1e6:.1f}"} for r in removals]
    show_deleted(rows or [{"what": "nothing", "why": "all is in use", "MB": "0.0"}], dry_run)
    wait_until_shown("the cleaning")
    return {"deleted": rows, "freed_bytes": sum(r.num_bytes for r in removals), "dry_run": dry_run}
