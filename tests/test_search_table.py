"""The tables of a search, and its pictures."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from afcore.config import parse_config
from afcore.errors import ConfigError
from afcore.search.search_report import (
    EpochRow,
    LabelsReport,
    MemberRow,
    SearchReport,
    TrialRow,
)
from afcore.search.study_forecast import StudyForecast, TrialForecast
from pipelines.cli.options import write_report
from pipelines.cli.search_shown import best_path, predictions_path, write_figures
from pipelines.search_table import (
    forecast_table,
    labels_table,
    members_table,
    search_markdown,
    search_table,
)

MEMBERS = [MemberRow(seed=seed, run_id=f"r{seed}", score=0.5 + seed / 4) for seed in (0, 1)]
TRIALS = [
    TrialRow(number=0, state="failed", values={"a.b": 1e-4}, why="[x] | y", seconds=2.0),
    TrialRow(
        number=1,
        state="finished",
        values={"a.b": 3},
        score=0.625,
        interval=0.1,
        members=MEMBERS,
        seconds=12.0,
    ),
]


@pytest.fixture
def report() -> SearchReport:
    return SearchReport(
        study_id="s1",
        score="accuracy",
        score_title="accuracy",
        in_percent=True,
        higher_is_better=True,
        trials=TRIALS,
        best=1,
    )


def printed(table: Any, width: int = 150) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_a_row_a_trial_with_the_best_in_bold(report: SearchReport) -> None:
    table = search_table(report)
    assert [row.style for row in table.rows] == [None, "bold"]
    title, _, head, _, first, second, _ = printed(table)
    assert title == "Search for the highest accuracy on validation, study s1"
    assert head == (
        "┃ trial ┃ state           ┃ shared ┃    a.b ┃               accuracy ┃ epochs ┃ seconds "
        "┃    US$ ┃"
    )
    assert first == (
        "│     0 │ failed: [x] | y │        │ 0.0001 │                      - │      0 │     2.0 "
        "│ 0.0000 │"
    )
    assert second.startswith("│     1 │ finished        │        │      3 │ 62.50 % ± 10.00 points")
    assert any("10.00 points │" in line for line in printed(table, 90)[6:]), "none is cut"


def test_the_same_as_markdown(report: SearchReport) -> None:
    lines = search_markdown(report).splitlines()
    assert lines[:4] == [
        "## Search for the highest accuracy on validation, study s1",
        "",
        "| trial | state | shared | a.b | accuracy | epochs | seconds | US$ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    assert lines[4].startswith(r"| 0 | failed: [x] \| y |  | 0.0001 | - | 0 | 2.0 |")
    assert lines[6:] == ["", "* best: trial 1, 62.50 % on validation."]


def test_trainings_of_the_best_trial_and_the_best_of_each_label(report: SearchReport) -> None:
    assert [line for line in printed(members_table(report)) if "┃" in line or "│" in line] == [
        "┃ training ┃ validation accuracy ┃ run ┃",
        "│   seed 0 │             50.00 % │  r0 │",
        "│   seed 1 │             75.00 % │  r1 │",
    ]
    lines = printed(labels_table(LabelsReport(labels={"topic": report})))
    assert lines[0] == "Best of each label column"
    assert lines[4] == (
        "│ topic │ accuracy │     1 │       62.50 % │       - │         0 │        0 │"
    )


def test_the_totals_of_a_predicted_study() -> None:
    row = TrialForecast(
        values={},
        epochs=2,
        epochs_alone=3,
        seconds=4.0,
        seconds_alone=6.0,
        set_bytes=10**6,
        set_bytes_alone=2 * 10**6,
        cost_usd=0.5,
        cost_usd_alone=0.75,
    )
    study = StudyForecast(longest=[row], shortest=[row], winners=[row], are_stand_ins=True)
    lines = printed(forecast_table(study))
    assert lines[2].startswith("┃ if                 ┃ trials ┃ epochs shared ┃ epochs alone ┃")
    assert lines[4].startswith("│ each stops early   │      1 │             2 │            3 │")
    assert lines[-1] == "The sampler looks at scores; random trials stand in for its own."


@pytest.mark.parametrize(
    ("search", "option", "name", "message"),
    [
        ({}, "--best", "my.topic.yaml", "my.topic.yaml: is the configuration itself"),
        ({"labels": ["topic"]}, "--best", "my.yaml", "my.yaml: is the configuration itself"),
        ({}, "--predictions", "a.csv", "a.csv: is a file that is read"),
        ({}, "--predictions", "link.csv", "link.csv: is a file that is read"),
        ({"labels": ["x", "a b"]}, "--best", "b.yaml", "b.a-b.yaml: is no file"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, search: dict[str, Any], option: str, name: str, message: str
) -> None:
    for there in ("my.topic.yaml", "a.csv"):
        (tmp_path / there).touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    (tmp_path / "b.a-b.yaml").mkdir()
    tree = {"model": {"name": "-"}, "data": {"train": [str(tmp_path / "a.csv"), "hub/name"]}}
    config = parse_config({**tree, "search": {"folds": 2, **search}}, source="test")
    checked = {"--best": best_path, "--predictions": predictions_path}[option]
    with pytest.raises(ConfigError, match=f"{option} .*{message}"):
        checked(str(tmp_path / "my.topic.yaml"), config, tmp_path / name)
    new = checked(str(tmp_path / "my.topic.yaml"), config, tmp_path / "new.csv")
    assert str(new) == str(tmp_path / "new.csv")


def test_a_picture_that_cannot_be_written_leaves_the_earlier_one(
    report: SearchReport, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    first, *others = write_figures(report, folder)
    assert len(others) == 2
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (first, *others))
    assert sorted(folder.iterdir()) == sorted((first, *others))
    first.unlink()
    first.mkdir()
    with pytest.raises(ConfigError, match=f"--figures {first}: cannot be written"):
        write_figures(report, folder)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_figures(report, others[0])


def test_a_score_that_is_no_number_is_null_in_the_file_and_read_again(
    report: SearchReport, tmp_path: Path
) -> None:
    done = {"source": "trained", "read_from": "tokens", "built": [], "seconds": 1, "cost_usd": 0}
    epoch = EpochRow(epoch=1, validation={"accuracy": 0.5, "loss": math.nan}, **done)
    diverged = TRIALS[0].model_copy(
        update={"members": [MemberRow(seed=0, run_id="r", epochs=[epoch])]}
    )
    whole = report.model_copy(update={"trials": [diverged, *TRIALS[1:]]})
    write_report(tmp_path / "search.json", whole.model_dump())
    text = (tmp_path / "search.json").read_text()
    tree = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    first = tree["trials"][0]["members"][0]["epochs"][0]["validation"]
    assert first == {"accuracy": 0.5, "loss": None}
    read = SearchReport.model_validate_json(text).trials[0].members[0].epochs[0].validation
    assert read["accuracy"] == 0.5
    assert math.isnan(read["loss"])
