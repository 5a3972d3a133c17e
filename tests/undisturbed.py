"""What a run that was disturbed must have in common with one that was not."""

from typing import Any

from afcore.results.report import RunReport
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run

__all__ = ["outcome"]


def outcome(run: Run, report: RunReport) -> list[Any]:
    """Weights and moments, losses, decisions, scores; not seconds."""
    last = record_of(run, len(report.epochs), CheckpointRecord)
    assert last is not None
    return [
        report.run_id,
        last.parts,
        [step.loss for step in last.trained.steps],
        report.decisions,
        [(epoch.read_from, epoch.validation) for epoch in report.epochs],
        report.totals.test,
    ]
