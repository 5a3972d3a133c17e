"""The page of a report."""

import html.parser
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from afcore.errors import ConfigError, UserError
from afcore.results import page_figures
from afcore.results.figures import accuracy_cost_figure
from afcore.results.page import report_page
from afcore.results.report import CompareReport
from pipelines.cli.report_shown import write_report_page
from tests.reports import make_report


class Elements(html.parser.HTMLParser):
    """Names of elements, and attributes that could fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        fetching = ("src", "href", "xlink:href", "data", "action", "srcset")
        self.fetched += [value or "" for name, value in attrs if name in fetching]


def test_a_page_needs_nothing_from_anywhere() -> None:
    page = report_page([make_report("full", seconds=20.0), make_report()])
    found = Elements(page)
    assert found.names.count("svg") == 1 + 2 * 2
    assert not set(found.names) & {"script", "link", "img", "iframe", "object"}
    # Glyphs of the pictures, which lie in the page.
    assert found.fetched
    assert all(one.startswith("#") for one in found.fetched)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)


def test_figures_of_the_runs_and_what_they_are_worth() -> None:
    page = report_page([make_report("full", seconds=20.0), make_report()])
    assert "1.9x" in page  # 42 s of training and building over 22
    assert "faster than full" in page
    assert "70.00 %" in page
    assert "65.00 %" in page
    assert "the statistic that decides" in page
    assert "Nothing was predicted" in page
    alone = report_page([make_report()])
    assert "faster than" not in alone


def test_predictions_and_tiers_are_drawn_where_there_are_any() -> None:
    report = make_report()
    epochs = [
        one.model_copy(
            update={
                "predicted_train_seconds": 9.0,
                "predicted_materialize_seconds": 1.0,
                "tier_bytes": {"host memory": 5_000_000, "object store": 1_000_000},
            }
        )
        for one in report.epochs
    ]
    page = report_page([report.model_copy(update={"epochs": epochs})])
    assert "Nothing was predicted" not in page
    assert Elements(page).names.count("svg") == 4


@pytest.mark.parametrize(("score", "better"), [("accuracy", "up"), ("loss", "down")])
def test_where_the_better_runs_stand(score: str, better: str) -> None:
    report = make_report()
    scores = {"accuracy": 0.7, "loss": 0.5}
    totals = report.totals.model_copy(update={"validation": scores, "test": scores})
    runs = [
        report.model_copy(update={"run_id": name, "score": score, "totals": totals})
        for name in ("a", "b")
    ]
    assert f"a point a run; {better} and left is better" in report_page(runs)


def test_names_are_text_whatever_is_in_them() -> None:
    report = make_report().model_copy(
        update={"model": "<script>alert(1)</script>", "notes": ["<img src=x>"]}
    )
    names = Elements(report_page([report])).names
    assert "script" not in names
    assert "img" not in names


def test_runs_of_unlike_scores_have_no_common_page() -> None:
    other = make_report().model_copy(update={"score": "f1_macro"})
    with pytest.raises(UserError, match=r"accuracy, .* by f1_macro. Give a page to each"):
        report_page([make_report(), other])


@pytest.mark.parametrize("name", ["report.json", "monday.report"])
def test_pages_of_files(tmp_path: Path, name: str) -> None:
    file, page = tmp_path / name, tmp_path / "new" / "page.html"
    file.write_text(make_report().model_dump_json(by_alias=True))
    assert write_report_page([str(file), str(file)], page, None, "") == 1
    assert page.read_text().startswith("<!DOCTYPE html>")
    file.write_text("{}")
    with pytest.raises(ConfigError, match=rf"{name}: is no report of autofreeze run"):
        write_report_page([str(file)], page, None, "")
    with pytest.raises(UserError, match="no run 'abc' in"):
        write_report_page(["abc"], page, str(tmp_path / "store"), "")


@pytest.mark.parametrize("dollars", [0.0, 0.1472])
def test_a_point_of_a_run_is_not_cut_off_at_the_edge(
    dollars: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that are far from zero and near to each other."""
    drawn, report = Figure(), make_report()
    totals = report.totals.model_copy(update={"wall_seconds": 528.0, "cost_usd": dollars})
    runs = [report.model_copy(update={"totals": totals})]
    totals = report.totals.model_copy(update={"wall_seconds": 482.0, "cost_usd": dollars})
    runs.append(report.model_copy(update={"totals": totals}))
    monkeypatch.setattr(page_figures, "_svg", lambda draw, *_: draw(drawn))
    page_figures.score_cost_svg(runs)
    compared = accuracy_cost_figure(CompareReport(schema=1, runs=runs, speedup={}, wall_speedup={}))
    assert len(drawn.axes) == len(compared.axes) == 2
    for axes in [*drawn.axes, *compared.axes]:
        left, right = axes.get_xlim()
        largest = max(x for points in axes.collections for x, _ in points.get_offsets())
        assert left == 0
        assert right > 1.05 * largest
