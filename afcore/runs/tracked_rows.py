"""What a run was trained on, as datasets of its MLflow run."""

from afcore.data.named_sources import shown_name
from afcore.runs.run import Run
from afcore.tracking.tracker import Tracker

__all__ = ["log_rows"]


def log_rows(run: Run, tracker: Tracker, mlflow_run_id: str) -> None:
    """Log each split with the digest of its rows, in any order, and their number."""
    prepared, named = run.data(), run.config.data
    for split, examples in prepared.splits.items():
        source = getattr(named, split)
        is_fold = split == "validation" and named.fold is not None
        of_train = is_fold or not isinstance(source, str | tuple)
        name = shown_name(named.train if of_train else source)
        held_out = " (held out)" if is_fold or isinstance(source, float) else ""
        count = prepared.num_train_rows if split == "train" else examples.num_rows
        digest = prepared.row_digests[split]
        tracker.log_rows(mlflow_run_id, split, f"{name}{held_out}", digest, count)
