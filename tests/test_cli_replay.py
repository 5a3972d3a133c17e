"""``autofreeze replay`` as a user meets it."""

from pathlib import Path

import pytest

from pipelines.cli import app
from tests.reports import make_report
from tests.results.test_replay import INTERVALS, recorded


def autofreeze(*arguments: object) -> int:
    return int(app([str(argument) for argument in arguments], standalone_mode=False) or 0)


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    path.write_text(recorded(INTERVALS, []).model_dump_json(by_alias=True))
    return path


def test_it_prints_what_would_have_been_decided(
    report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert autofreeze("replay", report, "--policy", "gradient_norm") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "│ 1 │ 10 │ 0 │ 2 │ 0.10 (0.25) │ 0.20 (0.25) │" in out
    assert "62 % of the etas are no larger than the change inside their own interval" in out


def test_settings_change_the_policy(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert autofreeze("replay", report, "--set", "freezing.percentile=100") == 0
    assert "│ 1 │ 10 │ 0 │ 3 │" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "magic"], "freezing.policy: got 'magic'"),
        (["--set", "percentil=3"], "did you mean 'freezing.percentile'?"),
        (["--set", "percentile"], "is not of the form key=value"),
        (["--policy", "linear", "--set", "depth=9"], "of 4 blocks at most 3"),
    ],
)
def test_a_wrong_policy_is_refused(
    report: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert autofreeze("replay", report, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("[]", "is no report of autofreeze run or compare"),
        (make_report("full").model_copy(update={"intervals": []}), "has no statistics to replay"),
    ],
)
def test_a_file_that_cannot_be_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, message: str
) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        text = content if isinstance(content, str) else content.model_dump_json(by_alias=True)  # type: ignore[attr-defined]
        path.write_text(text)
    assert autofreeze("replay", path) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_gradients_that_were_not_looked_at_are_not_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {"gradient_norms": (0.0,) * 4, "validation_losses": (0.5,)}
    blind = [one.model_copy(update=nothing) for one in INTERVALS]
    path = tmp_path / "report.json"
    path.write_text(recorded(blind, []).model_dump_json(by_alias=True))
    assert autofreeze("replay", path, "--policy", "gradient_norm") == 2
    assert "look at losses alone none of gradients" in " ".join(capsys.readouterr().err.split())
    assert autofreeze("replay", path, "--policy", "frozen_start") == 0
    shown = capsys.readouterr().out
    assert "eta" not in shown
    assert "Noise" not in shown
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(rows) == len({one.epoch for one in blind}), "it is asked once an epoch"
    assert "a learning rate that falls in cycles" in " ".join(shown.split())
