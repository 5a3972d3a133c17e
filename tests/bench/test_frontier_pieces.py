"""Pieces are found again, repeated when disturbed, and take the rate that validated best."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from afcore.config import load_config
from afcore.errors import ConfigError
from bench.frontier_parts.order import Plan, best_rate
from bench.frontier_parts.pieces import Finished, Piece, PieceFiles, References, run_pieces
from bench.frontier_parts.rows import FULL_ROWS, ROWS, chosen_rows, settings_of
from bench.frontier_parts.sets import DataSet, make_sets
from bench.recipes.sets import Sources

ROOT = Path(__file__).parent.parent.parent
SCORES = {"accuracy": 0.9, "loss": 0.3}
SETS = {
    "small": DataSet("small", {"data.train": "s.csv", "data.limit": 500}),
    "large": DataSet("large", {"data.train": "l.csv", "data.limit": 50_000}, most_seeds=1),
}
PIECES = [Piece("small", f"full-{epochs}", 0) for epochs in (1, 2, 4)]


class FakeTrainer:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def __call__(self, piece: Piece, settings: Mapping[str, Any]) -> dict[str, Any]:
        self.trained.append(piece.row_name)
        if settings.get("broken"):
            raise ConfigError("no such key")
        return {
            "paid_seconds": float(len(self.trained)),
            "validation": SCORES,
            "test": SCORES,
        }


def steady() -> References:
    return References(lambda: 2.0)


def scripted(*seconds: float) -> References:
    given = iter(seconds)
    return References(lambda: next(given), known=[2.0] * 20)


def make_plan(files: PieceFiles, rows: list[str], **changes: Any) -> Plan:
    arguments = {"seeds": [3, 4], "base_rate": 1e-4, "choose_rates": True, "num_blocks": 6}
    return Plan(SETS, chosen_rows(rows), files=files, **(arguments | changes))


def put(files: PieceFiles, piece: Piece, accuracy: float, loss: float = 0.3) -> None:
    scores = {"accuracy": accuracy, "loss": loss}
    measured = {"paid_seconds": 1.0, "validation": scores, "test": scores}
    files.write(Finished(piece, {}, measured, [2.0, 2.0], False))


def test_finished_pieces_are_not_trained_again(tmp_path: Path) -> None:
    files, trainer = PieceFiles(tmp_path), FakeTrainer()
    run_pieces(PIECES[:2], files, lambda _: {"a": 1}, trainer, steady(), say=_silent)
    run_pieces(PIECES, files, lambda _: {"a": 1}, trainer, steady(), say=_silent)

    assert trainer.trained == ["full-1", "full-2", "full-4"]
    assert [one.piece for one in files.all()] == PIECES
    assert json.loads((tmp_path / "small/full-1-seed0.json").read_text())["settings"] == {"a": 1}


def test_other_settings_are_another_training(tmp_path: Path) -> None:
    files, trainer = PieceFiles(tmp_path), FakeTrainer()
    for settings in ({"a": 1}, {"a": 2}, {"a": 2}):
        run_pieces(PIECES[:1], files, lambda _, s=settings: s, trainer, steady(), say=_silent)

    assert trainer.trained == ["full-1", "full-1"]
    found = files.read(PIECES[0])
    assert found is not None
    assert found.settings == {"a": 2}


def test_a_kill_within_a_piece_leaves_it_unfinished(tmp_path: Path) -> None:
    files = PieceFiles(tmp_path)

    def killed(piece: Piece, settings: object) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pieces(PIECES, files, lambda _: {}, killed, steady(), say=_silent)

    assert files.all() == []
    trainer = FakeTrainer()
    run_pieces(PIECES, files, lambda _: {}, trainer, steady(), say=_silent)
    assert len(trainer.trained) == 3


def test_a_piece_that_fails_is_named_tried_again_and_stops_nothing(tmp_path: Path) -> None:
    files, trainer = PieceFiles(tmp_path), FakeTrainer()

    def resolve(piece: Piece) -> dict[str, Any]:
        return {"broken": piece == PIECES[1]}

    for _ in range(2):
        failed = run_pieces(PIECES, files, resolve, trainer, steady(), say=_silent)
        assert failed == {PIECES[1]: "ConfigError: no such key"}

    assert trainer.trained == ["full-1", "full-2", "full-4", "full-2"]


def test_no_piece_starts_when_time_is_up(tmp_path: Path) -> None:
    files, trainer, lines = PieceFiles(tmp_path), FakeTrainer(), []
    left = iter([10.0, 0.0])
    run_pieces(
        PIECES,
        files,
        lambda _: {},
        trainer,
        steady(),
        seconds_left=lambda: next(left),
        say=lines.append,
    )

    assert trainer.trained == ["full-1"]
    assert "no time is left" in lines[-1]


@pytest.mark.parametrize(
    ("references", "times", "counted", "disturbed"),
    [
        ([2.0, 2.1], 1, 1.0, False),
        ([2.0, 2.29], 1, 1.0, False),
        ([2.0, 2.4, 2.0, 2.0], 2, 2.0, False),  # repeated, and then quiet
        ([1.6, 2.0, 2.0, 2.0], 2, 2.0, False),  # faster than usual is no better
        ([2.0, 2.4, 2.0, 3.0], 2, 1.0, True),  # repeated once; the first was less disturbed
        ([3.0, 2.0, 2.5, 2.0], 2, 2.0, True),
    ],
)
def test_a_disturbed_piece_is_repeated_once(
    tmp_path: Path, references: list[float], times: int, counted: float, disturbed: bool
) -> None:
    files, trainer = PieceFiles(tmp_path), FakeTrainer()
    run_pieces(PIECES[:1], files, lambda _: {}, trainer, scripted(*references), say=_silent)
    found = files.read(PIECES[0])

    assert found is not None
    assert len(trainer.trained) == len(found.attempts) == times
    assert found.measured["paid_seconds"] == counted
    assert found.disturbed is disturbed
    assert list(found.references) == references[2 * int(counted) - 2 : 2 * int(counted)]


@pytest.mark.parametrize(("attempts", "times", "disturbed"), [(1, 1, True), (3, 3, False)])
def test_how_often_a_disturbed_piece_is_repeated_can_be_given(
    tmp_path: Path, attempts: int, times: int, disturbed: bool
) -> None:
    files, trainer = PieceFiles(tmp_path), FakeTrainer()
    references = scripted(2.0, 2.4, 2.0, 2.4, 2.0, 2.0)
    run_pieces(PIECES[:1], files, lambda _: {}, trainer, references, attempts=attempts, say=_silent)
    found = files.read(PIECES[0])

    assert found is not None
    assert len(trainer.trained) == times
    assert found.disturbed is disturbed


def test_the_first_pieces_have_a_median_too(tmp_path: Path) -> None:
    given = iter([5.0, 2.0, 2.0, 2.0, 2.0])
    files, trainer = PieceFiles(tmp_path), FakeTrainer()
    references = References(lambda: next(given))
    run_pieces(PIECES[:1], files, lambda _: {}, trainer, references, say=_silent)

    assert len(trainer.trained) == 2


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ((0.7, 0.9, 0.8), (0.1, 0.5, 0.2), 1e-4),
        ((0.9, 0.9, 0.9), (0.3, 0.4, 0.2), 2e-4),
        ((0.9, 0.8, 0.9), (0.3, 0.1, 0.4), 5e-5),
    ],
)
def test_the_rate_is_the_most_accurate_on_validation_then_of_the_lowest_loss(
    tmp_path: Path, accuracies: tuple[float, ...], losses: tuple[float, ...], best: float
) -> None:
    scores = [
        {"accuracy": accuracy, "loss": loss}
        for accuracy, loss in zip(accuracies, losses, strict=True)
    ]
    assert best_rate(dict(zip((5e-5, 1e-4, 2e-4), scores, strict=True))) == best
    files = PieceFiles(tmp_path)
    for factor, one in zip((0.5, 1, 2), scores, strict=True):
        put(files, Piece("small", f"rate-lora-{factor:g}", 3), one["accuracy"], one["loss"])
    plan = make_plan(files, ["hf_lora"])

    settings = plan.resolve(Piece("small", "hf_lora", 4))
    assert settings is not None
    assert settings["training.learning_rate"] == pytest.approx(10 * best)
    # Nothing was chosen for the others, or for the other set.
    assert plan.rate("small", "full") == 1e-4
    assert plan.rate("large", "lora") == pytest.approx(1e-3)


def test_rates_are_chosen_without_the_test_and_on_a_sample(tmp_path: Path) -> None:
    plan = make_plan(PieceFiles(tmp_path), ["static"])
    probe = plan.resolve(Piece("large", "rate-static-2", 3))

    assert probe == {
        "data.train": "l.csv",
        "data.limit": 3000,
        "data.test": None,
        "mode": "cached",
        "freezing.policy": "static",
        "cache.mode": "on",
        "freezing.depth": 3,
        "training.epochs": 2,
        "training.learning_rate": 2e-4,
        "training.seed": 3,
    }


def test_rates_come_first_then_one_seed_of_everything(tmp_path: Path) -> None:
    pieces = make_plan(PieceFiles(tmp_path), ["static"]).pieces()
    parts = [(p.set_name, p.row_name.split("-")[0], p.seed) for p in pieces]

    assert list(dict.fromkeys(parts)) == [
        ("small", "rate", 3),
        ("large", "rate", 3),
        ("small", "full", 3),
        ("small", "static", 3),
        ("large", "full", 3),
        ("large", "static", 3),
        ("small", "full", 4),
        ("small", "static", 4),
    ]
    assert sum(p.row_name.startswith("rate-") for p in pieces) == 2 * 2 * 3
    assert len({p.path for p in pieces}) == len(pieces)


@pytest.mark.parametrize(("of_four", "wanted"), [(0.91, True), (0.90, False), (0.85, False)])
def test_eight_epochs_only_where_four_are_better_than_two(
    tmp_path: Path, of_four: float, wanted: bool
) -> None:
    files = PieceFiles(tmp_path)
    plan = make_plan(files, ["full"])
    long = Piece("small", "full-8", 4)
    assert plan.resolve(long) is None
    assert not plan.knows_long("small")
    put(files, Piece("small", "full-2", 3), 0.90)
    put(files, Piece("small", "full-4", 3), of_four)

    assert plan.knows_long("small")
    assert (plan.resolve(long) is not None) is wanted


def test_the_curve_is_always_trained() -> None:
    assert chosen_rows(["hf_lora"])[: len(FULL_ROWS)] == FULL_ROWS
    assert [row.name for row in chosen_rows(["hf_lora"]) if row.group != "full"] == ["hf_lora"]
    with pytest.raises(ValueError, match=r"no row hf_lara; known are .*hf_lora"):
        chosen_rows(["hf_lara"])


def test_depths_are_shares_of_the_blocks() -> None:
    depths = {
        row.name: settings_of(row, 1e-4, num_blocks).get("freezing.depth")
        for num_blocks in (6, 12)
        for row in ROWS
        if row.group == "static" and row.name.endswith(f"-{num_blocks // 3}")
    }
    assert depths == {
        "static-1of3-2": 2,
        "static-2of3-2": 4,
        "static-1of3-4": 4,
        "static-2of3-4": 8,
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_configuration(row: Any, tmp_path: Path) -> None:
    csv = [("mine", "a.csv", "b.csv", "32")]
    made, missing = make_sets(["mine"], tmp_path, Sources(), csv)
    data_set = made["mine"]
    assert not missing
    settings = {**data_set.settings, **settings_of(row, 1e-4, 6)}
    config = load_config(
        str(ROOT / "bench" / "frontier.yaml"), [f"{key}={value}" for key, value in settings.items()]
    )

    assert config.training.epochs == row.epochs
    assert config.data.max_length == 32


def _silent(line: str) -> None:
    pass
