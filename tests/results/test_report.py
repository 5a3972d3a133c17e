import json
import math

import pytest
from rich.console import Console

from afcore.results.comparison import compare_report
from afcore.results.figures import accuracy_cost_figure, epoch_time_figure, freezing_figure
from afcore.results.report import RunReport
from afcore.runs.records import best_epoch
from pipelines.comparison_table import COLUMNS, comparison_markdown, comparison_table
from tests.reports import make_report


def test_infinite_numbers_become_null_and_all_comes_back() -> None:
    report = make_report()
    text = report.model_dump_json(by_alias=True)
    tree = json.loads(text)
    assert tree["schema"] == 1
    assert tree["decisions"][0]["threshold"] is None
    assert tree["decisions"][1]["eta"][0] is None
    assert RunReport.model_validate_json(text) == report


def test_scores_that_are_no_numbers_become_null_and_come_back_as_none() -> None:
    report = make_report()
    scores = {"accuracy": 0.9, "perplexity": math.inf, "loss": math.nan}
    epochs = [report.epochs[0].model_copy(update={"validation": scores}), report.epochs[1]]
    intervals = [report.intervals[0].model_copy(update={"validation_losses": (math.inf, 1.0)})]
    totals = report.totals.model_copy(update={"validation": scores, "test": scores})
    changed = {"epochs": epochs, "intervals": intervals, "totals": totals}
    text = report.model_copy(update=changed).model_dump_json(by_alias=True)
    tree = json.loads(text)
    assert tree["epochs"][0]["validation"] == {"accuracy": 0.9, "perplexity": None, "loss": None}
    assert tree["intervals"][0]["validation_losses"] == [None, 1.0]
    found = RunReport.model_validate_json(text)
    for back in (found.epochs[0].validation, found.totals.validation, found.totals.test):
        assert back is not None
        assert {name for name, value in back.items() if math.isnan(value)} == {"perplexity", "loss"}
        assert back["accuracy"] == 0.9
    assert math.isnan(found.intervals[0].validation_losses[0])
    assert found.intervals[0].validation_losses[1] == 1.0
    assert best_epoch(found.epochs, found.main).epoch == 2


def test_speedup_is_the_median_over_seeds_of_train_and_materialize() -> None:
    runs = [make_report("full", seed, 29.0) for seed in range(3)]
    runs += [make_report("cached", seed, seconds) for seed, seconds in enumerate((9.0, 14.0, 5.0))]
    comparison = compare_report(runs)
    # 60 s against 20, 30 and 12.
    assert comparison.speedup == {"full": 1.0, "cached": pytest.approx(3.0)}
    # 63 s against 23, 33 and 15.
    assert comparison.wall_speedup["cached"] == pytest.approx(63 / 23)


def test_without_full_there_is_no_ratio() -> None:
    comparison = compare_report([make_report("cached")])
    assert comparison.speedup == {}
    assert "| - | - |" in comparison_markdown(comparison)


def test_the_table_has_a_row_a_run() -> None:
    comparison = compare_report([make_report("full", 0, 29.0), make_report("cached", 0, 9.0)])
    console = Console(width=200, record=True)
    console.print(comparison_table(comparison))
    text = console.export_text()
    for column in COLUMNS:
        assert column in text
    assert "3.00x" in text
    assert "65.00 %" in text
    assert comparison_markdown(comparison).splitlines()[4:] == [
        "",
        "best test accuracy: cached, 65.00 %",  # as good as full, in less time
    ]


def with_accuracy(report: RunReport, accuracy: float) -> RunReport:
    totals = report.totals.model_copy(update={"test": {"accuracy": accuracy}})
    return report.model_copy(update={"totals": totals})


def test_over_seeds_a_column_says_what_is_noise() -> None:
    accuracies = {"full": (0.90, 0.80), "cached": (0.89, 0.80), "freeze": (0.88, 0.781)}
    runs = [
        with_accuracy(make_report(mode, seed), accuracy)
        for mode, of_seeds in accuracies.items()
        for seed, accuracy in enumerate(of_seeds)
    ]
    comparison = compare_report(runs)
    # cached: differences -1 and 0 points; freeze: -2 and -1.9. t(1, 0.975) = 12.706.
    assert set(comparison.difference) == {"cached", "freeze"}
    assert comparison.difference["cached"].mean == pytest.approx(-0.005)
    assert comparison.difference["cached"].high == pytest.approx(-0.005 + 12.7062 * 0.005, abs=1e-6)
    assert comparison.difference["cached"].within_noise
    assert not comparison.difference["freeze"].within_noise
    markdown = comparison_markdown(comparison)
    assert markdown.count("| -0.50 ± 6.35, within noise |") == 2
    assert markdown.count("| -1.95 ± 0.64, beyond noise |") == 2
    assert "mean of 2 seeds" in markdown


def test_the_widest_table_is_not_cut() -> None:
    runs = [
        make_report(mode, seed, 1e3 * (seed + 1))
        for mode in ("full", "hf_trainer_grouped")
        for seed in (0, 10)
    ]
    console = Console(width=210, record=True)  # as the command line makes it, at least
    console.print(comparison_table(compare_report(runs)))
    text = console.export_text()
    assert "+0.00 ± 0.00, within noise" in text
    assert "…" not in text


def test_one_seed_says_nothing_about_noise() -> None:
    comparison = compare_report([make_report("full"), make_report("cached")])
    assert comparison.difference == {}
    assert "noise" not in comparison_markdown(comparison)


def test_figures_show_what_was_measured() -> None:
    report = make_report()
    axes = freezing_figure(report).axes[0]
    assert axes.get_title().endswith("cached, seed 0")
    assert list(axes.patches[0].get_data().values) == [0, 1, 2]
    bars = epoch_time_figure(report).axes[0].patches
    assert sum(bar.get_height() for bar in bars) == pytest.approx(2 * (10 + 0.1 + 1 + 0.5))
    comparison = compare_report([make_report("full"), make_report("cached", 1)])
    cost, wall = accuracy_cost_figure(comparison).axes
    assert [c.get_offsets()[0].tolist() for c in cost.collections] == [[0.02, 65], [0.02, 70]]
    assert wall.get_xlabel() == "wall seconds"


@pytest.mark.parametrize("count", [1, 2])
def test_a_decision_is_drawn_over_the_steps_before_it(count: int) -> None:
    report = make_report()
    report = report.model_copy(update={"decisions": report.decisions[:count]})
    (drawn,) = freezing_figure(report).axes[0].collections
    assert drawn.get_coordinates()[0, :, 0].tolist() == [0, 10, 20][: count + 1]


def test_a_run_without_decisions_has_its_figure_too() -> None:
    report = make_report("full").model_copy(update={"decisions": [], "intervals": []})
    assert freezing_figure(report).axes[0].patches
