"""Which run of a report is taken for a trace."""

from pathlib import Path

import pytest

from afcore.errors import ConfigError
from afcore.results.report import CompareReport, DecisionReport, RunReport
from afcore.results.traces import load_recorded, recorded_trace
from tests.reports import make_report


def written(path: Path, *runs: RunReport) -> Path:
    report = CompareReport(schema=1, runs=list(runs), speedup={}, wall_speedup={})
    path.write_text(report.model_dump_json(by_alias=True))
    return path


def unfrozen(mode: str) -> RunReport:
    report = make_report(mode)
    flat = {"boundary_start": 0, "boundary_end": 0}
    epochs = [epoch.model_copy(update=flat) for epoch in report.epochs]
    return report.model_copy(update={"epochs": epochs, "decisions": []})


def test_of_a_comparison_the_first_that_froze(tmp_path: Path) -> None:
    runs = (unfrozen("hf_trainer"), unfrozen("full"), unfrozen("freeze"), make_report("cached"))
    assert load_recorded(written(tmp_path / "r.json", *runs)).mode == "cached"


def test_where_nothing_froze(tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", unfrozen("full"), unfrozen("cached"))
    with pytest.raises(ConfigError, match="in none of its 2 runs did a block freeze"):
        load_recorded(path)


def test_the_trace_of_a_recorded_run() -> None:
    report = make_report()
    interval = report.intervals[0]
    at = {1: (5, 10), 2: (15, 20)}
    decided = {10: (0, 1), 15: (1, 2)}
    intervals = [
        interval.model_copy(update={"epoch": epoch, "step": step})
        for epoch, steps in at.items()
        for step in steps
    ]
    decisions = [
        DecisionReport(
            step=step, epoch=1, eta=(), threshold=0.0, boundary_before=before, boundary_after=after
        )
        for step, (before, after) in decided.items()
    ]
    changed = report.model_copy(update={"intervals": intervals, "decisions": decisions})
    assert recorded_trace(changed) == [[0, 0], [1, 2]]
    bare = report.model_copy(update={"intervals": [], "decisions": []})
    assert recorded_trace(bare) == [[0], [1]]


def test_a_report_of_a_later_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"schema": 2, "runs": [], "of": "the future"}')
    with pytest.raises(ConfigError, match=r"of schema 2, .* reads up to 1. Upgrade it"):
        load_recorded(path)
