"""Cross-validation: one set of all rows, and each row predicted by who has not seen it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.activations.sets import list_sets
from afcore.config import Config, parse_config
from afcore.errors import ConfigError, DataError
from afcore.runs.batches import batches_of
from afcore.runs.run import open_run
from afcore.runs.whole_run import complete_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.out_of_fold import write_out_of_fold
from afcore.search.search_report import SearchReport, TrialRow
from afcore.search.space import check_space
from afcore.search.study import TrialHandle
from afcore.storage.objects import Storage
from tests.conftest import stdlib_rows, write_csv
from tests.runs.test_common_inputs import count_loads

FOLDS = 3


def of_task(config: dict[str, Any], folder: Path, task: str) -> Config:
    """A study of one trial of so many folds; one text stands in the file twice."""
    rows = [{**row, "number": str(len(row["text"]) / 100)} for row in stdlib_rows()[:48]]
    for number, row in enumerate(rows):
        row["tags"] = ";".join(["a", "b"][: number % 3]) if number % 3 else "c"
    rows.append(dict(rows[0]))
    label = {"text-regression": "number", "multi-label-classification": "tags"}.get(task, "label")
    path = write_csv(folder / "rows.csv", rows)
    tree = {**config, "task": task, "freezing": {"policy": "static", "depth": 1}}
    tree["data"] = {"train": str(path), "label": label, "max_length": 32}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"folds": FOLDS, "storage": f"sqlite:///{folder}/optuna.db"}
    return parse_config(tree, source="test")


def conduct(config: Config) -> tuple[StudyConductor, SearchReport]:
    conductor = StudyConductor(prepare_study(config))
    while True:
        with conductor.next_trial() as handle:
            if handle is None:
                return conductor, conductor.report()
            conductor.train(handle)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        "text-classification",
        pytest.param("text-regression", marks=pytest.mark.faults),
        "multi-label-classification",
    ],
)
def test_every_row_is_predicted_once_by_who_has_not_seen_it(
    tiny_config: dict[str, Any], tmp_path: Path, task: str
) -> None:
    config = of_task(tiny_config, tmp_path, task)
    conductor, report = conduct(config)
    (row,) = report.trials
    assert row.state == "finished", row.why
    assert [member.fold for member in row.members] == [1, 2, 3]
    assert row.score == pytest.approx(np.mean([member.score for member in row.members]))
    assert row.interval is not None
    assert row.interval > 0
    (found,) = list_sets(Storage(config.store))
    assert found.manifest.num_examples == 49  # of all rows, once
    assert [epoch.built for epoch in row.epochs] == [[1], [], []]
    assert {epoch.read_from for epoch in row.epochs} == {"activations@1"}

    runs = [open_run(config.store, member.run_id) for member in row.members]
    folds = [run.data() for run in runs]
    held = [data.held_rows for data in folds]
    assert sorted(np.concatenate(held)) == list(range(49))
    assert sum({0, 48} <= set(rows.tolist()) for rows in held) == 1  # the text that is there twice
    for run, data in zip(runs, folds, strict=True):
        for windows in (None, (found.layout.shard, 1)):
            seen = np.concatenate(batches_of(run, data.train, 1, windows))
            assert sorted([*seen, *data.held_rows]) == list(range(49))

    winner = conductor.winner()
    assert winner.data.fold is None
    path = tmp_path / "predictions.csv"
    write_out_of_fold(winner, row.members, path)
    with path.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [int(line["row"]) for line in written] == list(range(49))
    assert [int(line["fold"]) for line in written] == [
        next(n for n, rows in enumerate(held, 1) if place in rows) for place in range(49)
    ]
    named = [name for name in written[0] if name.startswith("probability_")]
    expected = {"text-classification": 3, "multi-label-classification": 3}.get(task, 0)
    assert len(named) == expected
    if task == "text-classification":
        right = [line["label"] == line["prediction"] for line in written]
        scores = [m.score * len(rows) for m, rows in zip(row.members, held, strict=True)]
        assert sum(right) == pytest.approx(sum(scores))


class KilledError(Exception):
    """As a SIGKILL would end the process."""


def killed_after_a_fold(config: Config) -> TrialRow:
    """What was noted of a trial until then."""
    notes: list[TrialRow] = []
    note = TrialHandle.note

    def dies(self: TrialHandle, row: TrialRow) -> None:
        note(self, row)
        notes.append(row)
        if row.members[-1].done:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialHandle, "note", dies)
        with pytest.raises(KilledError):
            conduct(config)
    return notes[-1]


def test_a_study_with_folds_goes_on_with_those_done(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config = of_task(tiny_config, tmp_path, "text-classification")
    config = config.replace(**{"search.folds": 2})
    left = killed_after_a_fold(config)
    _, report = conduct(config)
    (row,) = report.trials
    assert row.members[:1] == left.members
    assert row.members[1].fold == 2
    _, other = conduct(
        config.replace(
            **{
                "store": str(tmp_path / "other"),
                "search.storage": f"sqlite:///{tmp_path}/other.db",
            }
        )
    )
    assert [m.score for m in other.trials[0].members] == [m.score for m in row.members]


def test_all_folds_are_looked_at_once(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of_task(tiny_config, tmp_path, "text-classification")
    vary = {"training.learning_rate": [1e-3, 3e-3]}
    config = config.replace(
        **{"search.folds": 5, "search.sampler": "grid", "search.vary": vary},
    )
    loaded, counts = count_loads(monkeypatch), []
    conductor = StudyConductor(prepare_study(config))
    for _ in range(2):
        with conductor.next_trial() as handle:
            assert handle is not None
            assert conductor.train(handle).state == "finished"
        counts.append(len(loaded))
    assert counts == [6, 6]  # with the one without folds


def test_folds_whose_runs_were_deleted_are_trained_again_for_their_predictions(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config = of_task(tiny_config, tmp_path, "text-classification")
    conductor, report = conduct(config.replace(**{"search.folds": 2}))
    members, winner = report.trials[0].members, conductor.winner()
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    write_out_of_fold(winner, members, first)
    storage = Storage(config.store)
    storage.delete_folder(f"runs/{members[0].run_id}")
    write_out_of_fold(winner, members, again)
    assert again.read_text() == first.read_text()

    source = tmp_path / "rows.csv"
    lines = source.read_text().splitlines(keepends=True)
    for changed, count in ((lines + lines[-1:], 50), (lines[:-1], 48)):
        source.write_text("".join(changed))
        with pytest.raises(DataError, match=f"has {count} rows now, .* were trained on 49"):
            write_out_of_fold(winner, members, tmp_path / "other.csv")
        assert not (tmp_path / "other.csv").exists()


def test_the_winner_trains_without_folds_and_keeps_the_rows_of_the_set(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config = of_task(tiny_config, tmp_path, "text-classification")
    config = config.replace(**{"data.validation": 0.2, "search.folds": 2})
    conductor, _ = conduct(config)
    _, report = complete_run(conductor.winner())
    assert report.data.train_examples + report.data.validation_examples == 49
    assert report.epochs[0].read_from == "activations@1"
    assert report.totals.activation_bytes_written == 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"search.folds": 45}, DataError, r"fold \d+ of 45 has no row, as 48 different texts are"),
        ({"data.fold": "1/2"}, ConfigError, "give data.fold or search.folds"),
        ({"search.seeds": 2}, ConfigError, "give seeds or folds, not both"),
        ({"data.fold": "3/2"}, ConfigError, "there is no fold 3 of 2"),
        (
            {"mode": "hf_trainer", "data.fold": "1/2"},
            ConfigError,
            "mode hf_trainer trains on whole files",
        ),
        ({"search.vary": {"data.fold": ["1/2"]}}, ConfigError, "for folds, give search.folds"),
    ],
)
def test_folds_that_cannot_be(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    config = of_task(tiny_config, tmp_path, "text-classification")
    with pytest.raises(error, match=message):
        prepare_study(config.replace(**changes))
    check_space(config)
