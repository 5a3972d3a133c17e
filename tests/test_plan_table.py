"""Workers in the tables and the figure of ``autofreeze plan``."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from afcore.planning.alternatives import weigh_workers
from afcore.planning.forecast import Resources, forecast_boundaries, forecast_run
from afcore.preview import PlanReport
from pipelines.plan_figures import Choice, pareto_figure
from pipelines.plan_table import choices, run_table, workers_table
from tests.planning.test_resources import PRICES, scalable
from tests.planning.test_scaling import RUN


@pytest.fixture
def plan() -> PlanReport:
    profile, resources = scalable(), Resources(max_workers=4, batch_size=12)
    run = forecast_run(
        profile,
        RUN,
        [[0], [3], [3]],
        mode="efficiency",
        case="a test",
        cache_mode="auto",
        prices=PRICES,
        resources=resources,
    )
    return PlanReport(
        model="m",
        num_blocks=4,
        train_examples=120,
        epochs=3,
        profile=profile,
        boundaries=forecast_boundaries(profile, RUN),
        workers=weigh_workers(profile, RUN, resources, PRICES, caches=True),
        runs=[run],
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
    late = forecast_run(
        plan.profile,
        RUN,
        [[0], [3]],
        mode="performance",
        case="a test",
        cache_mode="auto",
        prices=PRICES,
        resources=Resources(max_workers=4, batch_size=12, deadline_seconds=1.0),
    )
    table = run_table(plan.model_copy(update={"runs": [late]}))
    assert "a test (not within what is allowed)" in printed(table)
    assert "not within" not in printed(run_table(plan))


def test_the_figure_marks_what_is_chosen(plan: PlanReport, tmp_path: Path) -> None:
    found = choices(plan)
    assert [choice.name for choice in found] == [
        "0 of 4, from tokens",
        "2 of 4, from a set",
        "3 of 4, from a set",
    ]
    assert found[2].chosen == {"performance": "4", "efficiency": "1"}
    figure = pareto_figure(found)
    figure.savefig(tmp_path / "plan.png")
    assert len(figure.axes) == 3
    rings = figure.axes[2].collections[1:]
    assert [ring.get_label() for ring in rings] == ["performance", "efficiency"]
    seconds = {label: at for label, at in zip(found[2].labels, found[2].seconds, strict=True)}
    assert [float(ring.get_offsets()[0][0]) for ring in rings] == [seconds["4"], seconds["1"]]


def test_only_what_nothing_beats_is_joined() -> None:
    choice = Choice("a", ["1", "2", "4"], [3.0, 2.0, 2.5], [1.0, 2.0, 3.0], {})
    (line,) = pareto_figure([choice]).axes[0].lines
    assert list(line.get_xdata()) == [2.0, 3.0]
    assert list(line.get_ydata()) == [2.0, 1.0]
