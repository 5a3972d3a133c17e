"""From finished pieces to tables, JSON and pictures."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from rich.console import Console

from bench.frontier_parts.budget import forecast, piece_seconds
from bench.frontier_parts.order import Plan
from bench.frontier_parts.picture import frontier_picture
from bench.frontier_parts.pieces import Finished, Piece, PieceFiles
from bench.frontier_parts.results import publish
from bench.frontier_parts.rows import chosen_rows
from bench.frontier_parts.sets import DataSet
from bench.frontier_parts.summary import over_sets, summarize
from bench.frontier_parts.training import SetFacts
from bench.frontier_parts.yardstick import Bound

FACTS = SetFacts(1000, 100, 500, 4, 40.0, 64, 6, 0.01, 0.001, 10.0)
# Accuracies are multiples of 1/8, so that means are exact.
FULL = {"full-1": (10, 0.5), "full-2": (20, 0.75), "full-4": (40, 0.875)}
METHODS = {
    "hf_trainer": (60, 0.75),
    "static-2of3-2": (5, 0.625),
    "ours-0": (20, 0.875),
    "ours-0.5": (10, 0.75),
    "ours-2": (4, 0.25),
}


def piece(
    set_name: str, row: str, seed: int, seconds: float, accuracy: float, **changes: Any
) -> Finished:
    settings = {"data.train": "/secret/place/train.csv", "training.learning_rate": 1e-4}
    scores = {"accuracy": accuracy, "loss": 1 - accuracy}
    measured = {"paid_seconds": seconds, "validation": scores, "test": scores}
    arguments: dict[str, Any] = {"references": [2.0, 2.0], "disturbed": False} | changes
    return Finished(Piece(set_name, row, seed), settings, measured, **arguments)


def pieces(set_name: str = "one", seeds: tuple[int, ...] = (0, 1)) -> list[Finished]:
    rows = {**FULL, **METHODS}
    return [piece(set_name, row, seed, *rows[row]) for seed in seeds for row in rows]


def test_every_row_is_put_beside_the_curve_of_its_set() -> None:
    (found,) = summarize(pieces())
    rows = {row.name: row for row in found.rows}

    assert {label: point.seconds for label, point in found.curve.items()} == {
        "1": 10,
        "2": 20,
        "4": 40,
    }
    assert {name: (row.speedup.value, row.speedup.bound) for name, row in rows.items()} == {
        "full-4": (1.0, Bound.EXACT),
        "ours-0": (2.0, Bound.EXACT),
        "ours-0.5": (2.0, Bound.EXACT),
        "ours-2": (2.5, Bound.AT_MOST),
        "hf_trainer": (pytest.approx(1 / 3), Bound.EXACT),
        "static-2of3-2": (pytest.approx(2 * 2**0.5), Bound.EXACT),
    }
    assert rows["ours-0.5"].to_best.value == pytest.approx(-12.5)
    against = rows["ours-0.5"].against
    assert against.keys() == {"full-4", "hf_trainer"}
    assert against["full-4"].ratio == 4.0
    assert (against["full-4"].accuracy, against["full-4"].other_accuracy) == (0.75, 0.875)
    assert against["hf_trainer"].ratio == 6.0
    assert against["hf_trainer"].difference.mean == 0.0


def test_only_seeds_that_the_whole_curve_has_are_compared() -> None:
    several = [one for one in pieces() if (one.piece.row_name, one.piece.seed) != ("full-2", 1)]
    (found,) = summarize(several)

    assert {row.speedup.num_seeds for row in found.rows} == {1}
    assert summarize([one for one in pieces(seeds=(0,)) if one.piece.row_name == "ours-0"]) == []


def test_probes_of_rates_are_no_rows() -> None:
    probes = [piece("one", "rate-full-1", 0, 20, 1.0), piece("one", "rate-full-2", 0, 20, 1.0)]

    assert summarize([*pieces(), *probes])[0] == summarize(pieces())[0]
    assert summarize(probes) == []


def test_scaled_seconds_are_those_of_a_machine_as_fast_as_usual() -> None:
    slow = piece("one", "guarded", 0, 30, 0.75, references=[2.8, 3.2], disturbed=True)
    (found,) = summarize([*pieces(), slow])
    row = next(row for row in found.rows if row.name == "guarded")

    assert (row.mean.seconds, row.scaled_seconds) == (30, 20)
    assert (row.speedup.value, row.scaled_speedup.value) == pytest.approx((2 / 3, 1.0))
    assert row.num_disturbed == 1


def test_over_sets_losses_count() -> None:
    losing = [
        piece("two", row, seed, seconds, accuracy)
        for seed in (0, 1)
        for row, (seconds, accuracy) in {**FULL, "ours-0.5": (40, 0.75)}.items()
    ]
    (found,) = (row for row in over_sets(summarize([*pieces(), *losing])) if row.name == "ours-0.5")

    assert found.num_sets == 2
    assert found.speedup.value == pytest.approx(1.0)
    assert found.worst[0] == "two"
    assert found.worst[1].value == pytest.approx(0.5)
    assert found.to_best == pytest.approx(-12.5)
    assert found.interval == pytest.approx((1.0, 1.0))


def test_tables_json_and_pictures_are_written(tmp_path: Path) -> None:
    text = StringIO()
    console = Console(file=text, width=200)
    several = [*pieces(), *pieces("two", (0,))]
    publish(several, {"one": FACTS}, {"cpu": "fast"}, [tmp_path], console)
    tree = json.loads((tmp_path / "frontier.json").read_text())

    for words in ("<= 2.50x", "2.83x (2.83 to 2.83)", "2.83x (one seed)", "All data sets"):
        assert words in text.getvalue()
    assert tree["machine"] == {"cpu": "fast"}
    assert tree["sets"]["one"]["facts"]["num_classes"] == 4
    assert len(tree["pieces"]) == len(several)
    assert "secret" not in json.dumps(tree)
    assert "NaN" not in json.dumps(tree)
    assert "Infinity" not in json.dumps(tree)
    for name in ("one", "two"):
        assert imread(tmp_path / f"{name}.png").shape[0] > 300


def test_labels_in_the_picture_do_not_cover_each_other() -> None:
    crowd = {
        "hf_trainer": (19, 0.75),
        "guarded": (21, 0.75),
        "paper": (20, 0.76),
        "ours-0": (20, 0.74),
        "ours-0.5": (19.5, 0.74),
    }
    extra = [piece("one", row, 0, *at) for row, at in crowd.items()]
    (found,) = summarize(
        [one for one in pieces(seeds=(0,)) if "full" in one.piece.row_name] + extra
    )
    figure = frontier_picture(found)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]

    assert len(boxes) == 3 + len(crowd)
    assert [1 for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)] == []


def test_the_budget_is_of_what_is_left(tmp_path: Path) -> None:
    files = PieceFiles(tmp_path)
    sets = {"one": DataSet("one", {"data.limit": 1100})}
    plan = Plan(sets, chosen_rows(["full"]), [0], 1e-4, False, 6, files)
    facts = {"one": FACTS}
    before = forecast(plan, facts, 2.0)["one"]
    done = Piece("one", "full-2", 0)
    scores = {"accuracy": 0.9, "loss": 0.1}
    settings = plan.resolve(done)
    assert settings is not None
    files.write(Finished(done, settings, {"paid_seconds": 1, "test": scores}, [2.0, 2.0], False))
    after = forecast(plan, facts, 2.0)["one"]

    # Two epochs of 1,000 rows, 100 rows twice and 500 once, what is around, two references.
    assert piece_seconds(plan, done, FACTS, 2.0) == pytest.approx(20 + 0.7 + 10 + 4)
    assert (before.num_pieces, before.num_left, after.num_left) == (5, 5, 4)
    assert before.seconds_left - after.seconds_left == pytest.approx(34.7)
