"""Recorded runs, read back from their reports."""

import json
from pathlib import Path

from afcore.errors import ConfigError
from afcore.results.report import REPORT_SCHEMA, RunReport

__all__ = ["load_recorded", "read_reports", "recorded_trace"]


def read_reports(path: Path, option: str = "") -> list[RunReport]:
    """The runs of a report of ``run`` or ``compare``, which was given with ``option``, if any.

    Raises:
        ConfigError: when the file cannot be read, is no such report, or of a later version.
    """
    given = f"{option} {path}".strip()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        schema = tree.get("schema", REPORT_SCHEMA)
        if isinstance(schema, int) and schema > REPORT_SCHEMA:
            raise ConfigError(
                f"{given}: is of schema {schema}, which a later version of AutoFreeze wrote; this "
                f"one reads up to {REPORT_SCHEMA}. Upgrade it: pip install --upgrade autofreeze"
            )
        runs = tree.get("runs", [tree])
        return [RunReport.model_validate(run) for run in runs]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{given}: cannot be read: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{given}: is no report of autofreeze run or compare. Give a file that one of them "
            "wrote with --report"
        ) from error


def load_recorded(path: Path) -> RunReport:
    """The recorded run: of a comparison's, the first that froze.

    Raises:
        ConfigError: when the file is no report, or nothing in it froze.
    """
    runs = read_reports(path, "--trace")
    for run in runs:
        if any(epoch.boundary_end for epoch in run.epochs):
            return run
    raise ConfigError(f"--trace {path}: in none of its {len(runs)} runs did a block freeze")


def recorded_trace(report: RunReport) -> list[list[int]]:
    """The boundaries that were in force in a run, by epoch and interval."""
    after = {decision.step: decision.boundary_after for decision in report.decisions}
    trace = []
    for epoch in report.epochs:
        boundary, boundaries = epoch.boundary_start, []
        for interval in report.intervals:
            if interval.epoch == epoch.epoch:
                boundaries.append(boundary)
                boundary = after.get(interval.step, boundary)
        trace.append(boundaries or [boundary])
    return trace
