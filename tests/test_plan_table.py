"""Workers in the tables and the figure of ``autofreeze plan``."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from afcore.planning.choose_workers import Allowed, Standing
from afcore.planning.forecast import EpochSetup, Forecast
from afcore.planning.run_forecast import RunForecast, forecast_boundaries, forecast_run
from afcore.preview import PlanReport
from pipelines.plan_figures import pareto_figure
from pipelines.plan_table import boundary_table, run_table, workers_table
from tests.planning.profiles import RUN, four_workers, scalable


def predicted(allowed: Allowed, trace: list[list[int]]) -> RunForecast:
    start = Standing(1, len(trace), trace[0][0], builders=4)
    return forecast_run(scalable(), RUN, allowed, trace, case="a test", start=start)


@pytest.fixture
def plan() -> PlanReport:
    allowed = four_workers(mode="efficiency", sets="auto")
    return PlanReport(
        model="m",
        num_blocks=4,
        train_examples=120,
        epochs=3,
        profile=scalable(),
        boundaries=forecast_boundaries(scalable(), RUN, allowed),
        runs=[predicted(allowed, [[0], [3], [3]])],
        notes=[],
    )


def printed(table: object) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return " ".join(text.getvalue().split())


def test_a_row_a_boundary_and_a_column_a_number_of_workers(plan: PlanReport) -> None:
    out = printed(workers_table(plan))
    assert "┃ frozen ┃ 1 ┃ 2 ┃ 3 ┃ 4 ┃ performance ┃ efficiency ┃" in out
    assert "│ 0 of 4, from tokens │ 71.1 s 71.0520 │" in out
    assert "│ 3 of 4, from a set │ " in out
    assert "│ 4 │ 1 │" in out


def test_workers_of_each_epoch(plan: PlanReport) -> None:
    assert "│ 4, 1, 1 │" in printed(run_table(plan))


def test_a_deadline_that_cannot_be_kept_is_marked(plan: PlanReport) -> None:
    late = predicted(four_workers(sets="auto", deadline_seconds=1.0), [[0], [3]])
    table = run_table(plan.model_copy(update={"runs": [late]}))
    assert "a test (not within what is allowed)" in printed(table)
    assert "not within" not in printed(run_table(plan))


def test_seconds_and_megabytes_of_each_boundary(plan: PlanReport) -> None:
    out = printed(boundary_table(plan))
    assert "│ 0 of 4 │ 70.2 │ - │ - │ - │ - │" in out
    assert "│ 3 of 4 │ 26.7 │ 16.7 │ 0.0 │ 6.4 │ 1 epoch │" in out


def test_memory_of_each_boundary(plan: PlanReport) -> None:
    taken = [1_240_000_000, 10**9, 10**9, 800_000_000]
    out = printed(boundary_table(plan.model_copy(update={"memory_bytes": taken})))
    assert "│ 0 of 4 │ 70.2 │ - │ - │ - │ - │ 1.2 │" in out
    assert "│ 1 epoch │ 0.8 │" in out


def test_the_figure_marks_what_is_chosen(plan: PlanReport, tmp_path: Path) -> None:
    figure = pareto_figure(plan)
    figure.savefig(tmp_path / "plan.png")
    assert [axes.get_title() for axes in figure.axes] == [
        "0 of 4, from tokens",
        "2 of 4, from a set",
        "3 of 4, from a set",
    ]
    rings = figure.axes[2].collections[1:]
    assert [ring.get_label() for ring in rings] == ["performance", "efficiency"]
    one, *_, four = plan.boundaries[3].workers["performance"].alternatives
    assert [float(ring.get_offsets()[0][0]) for ring in rings] == [four.seconds, one.seconds]


def test_only_what_nothing_beats_is_joined(plan: PlanReport) -> None:
    alternatives = [
        Forecast(
            setup=EpochSetup(boundaries=[0], num_workers=count),
            suffix_seconds=seconds,
            cost_usd=dollars,
        )
        for count, seconds, dollars in ((1, 3.0, 1.0), (2, 2.0, 2.0), (4, 2.5, 3.0))
    ]
    row = plan.boundaries[0]
    choice = row.workers["performance"].model_copy(update={"alternatives": alternatives})
    changed = row.model_copy(update={"workers": {"performance": choice}})
    whole = plan.model_copy(update={"boundaries": [changed, *plan.boundaries[1:]]})
    (line,) = pareto_figure(whole).axes[0].lines
    assert list(line.get_xdata()) == [2.0, 3.0]
    assert list(line.get_ydata()) == [2.0, 1.0]
