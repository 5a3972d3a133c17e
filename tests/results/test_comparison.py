"""Runs ranked, and their differences, by another main score than accuracy."""

from typing import Any

import numpy as np
import pytest

from afcore.results.comparison import compare_report, row_difference
from afcore.results.figures import accuracy_cost_figure
from afcore.results.report import RunReport, pack_array, unpack_array
from pipelines.comparison_table import comparison_markdown
from tests.reports import make_report

LABELS = np.repeat([0, 1], [97, 3])
MAJORITY = np.zeros(100, dtype=np.int64)
KNOWING = np.where(np.arange(100) >= 93, 1, 0)  # macro-F1 0.789474, Matthews 0.641014


def scored(mode: str, score: str, value: float, seed: int = 0, **rows: Any) -> RunReport:
    report = make_report(mode, seed)
    scores = {"accuracy": 0.9, "loss": 0.5, score: value}
    packed = {name: pack_array(values) for name, values in rows.items()}
    totals = {"test": scores, "validation": scores, "test_rows": packed if rows else None}
    return report.model_copy(
        update={"score": score, "totals": report.totals.model_copy(update=totals)}
    )


def test_arrays_come_back() -> None:
    for kind in ("u1", "<u2", "<f4"):
        values = np.asarray([0, 3, 200], dtype=kind)
        back = unpack_array(pack_array(values))
        assert back.dtype == values.dtype
        assert back.tolist() == [0, 3, 200]
    for flags in (np.asarray([True, False, True] * 5), np.eye(3, dtype=bool)):
        np.testing.assert_array_equal(unpack_array(pack_array(flags)), flags)


@pytest.mark.parametrize(("score", "value"), [("f1_macro", 0.297089), ("matthews", 0.641014)])
def test_a_score_of_all_rows_is_bootstrapped(score: str, value: float) -> None:
    labels, mine, theirs = (x.astype(np.uint8) for x in (LABELS, KNOWING, MAJORITY))
    run = scored("cached", score, 0.0, labels=labels, predicted=mine)
    full = scored("full", score, 0.0, labels=labels, predicted=theirs)
    found = row_difference(run, full)
    assert found is not None
    assert found.mean == pytest.approx(value, abs=1e-5)
    assert found.num_pairs == 100
    # Samples without any of the three rows show no difference, or a worse one.
    assert found.low < value - 0.2
    assert value < found.high < 0.95
    assert row_difference(run, full) == found, "drawn alike every time"
    nothing = row_difference(run, run)
    assert nothing is not None
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)
    other = scored("full", score, 0.0, labels=labels[::-1].copy(), predicted=theirs)
    assert row_difference(run, other) is None, "other test rows"
    comparison = compare_report([full, run])
    assert comparison.difference["cached"].method == "bootstrap"
    assert "95 % interval over them (bootstrap)" in comparison_markdown(comparison)


def test_runs_on_test_sets_of_unlike_sizes_are_not_paired() -> None:
    """Where no label of a row tells one set from another."""

    def run(mode: str, count: int) -> RunReport:
        losses, weights = np.ones(count, dtype=np.float32), np.arange(1, count + 1, dtype=np.uint8)
        report = scored(mode, "perplexity", 2.0, losses=losses, weights=weights)
        return report.model_copy(update={"task": "causal-language-modeling"})

    assert row_difference(run("cached", 5), run("full", 5)) is not None
    for sizes in ((5, 3), (3, 5)):
        assert row_difference(run("cached", sizes[0]), run("full", sizes[1])) is None


def test_the_log_loss_is_paired_by_row_and_the_lowest_is_best() -> None:
    losses = np.asarray([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    full = scored("full", "loss", 0.25, losses=losses)
    run = scored("cached", "loss", 0.30, losses=losses + np.asarray([0.0, 0.1, 0.0, 0.1], "f4"))
    comparison = compare_report([full, run])
    difference = comparison.difference["cached"]
    # t(3, 0.975) = 3.18245, standard deviation 0.057735.
    assert difference.mean == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05 + 3.18245 * 0.057735 / 2, abs=1e-5)
    assert difference.method == "t"
    assert comparison.best_mode == "full"
    text = comparison_markdown(comparison)
    assert "| 0.3000 | 0.3000 |" in text
    assert "| +0.0500 ± 0.0919, within noise |" in text
    assert "test - full: log loss, on the same test rows" in text
    assert text.splitlines()[-2].endswith("best test log loss: full, 0.2500") or (
        "best test log loss: full, 0.2500" in text
    )


def test_over_seeds_the_main_score_is_compared_and_shown() -> None:
    values = {"full": (0.70, 0.60), "cached": (0.69, 0.60), "freeze": (0.71, 0.62)}
    runs = [
        scored(mode, "f1_macro", value, seed)
        for mode, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]
    comparison = compare_report(runs)
    assert comparison.difference["freeze"].mean == pytest.approx(0.015)
    assert comparison.best_mode == "freeze"
    text = comparison_markdown(comparison)
    assert "| 71.00 % | 71.00 % |" in text
    assert "test - full: points of macro-F1, mean of 2 seeds" in text
    assert "best test macro-F1: freeze, 66.50 %, mean of 2 seeds" in text
    cost, _ = accuracy_cost_figure(comparison).axes
    assert cost.get_ylabel() == "macro-F1, %"
    assert cost.collections[0].get_offsets().tolist() == [[0.02, 70], [0.02, 60]]
