"""``autofreeze simulate`` as a user meets it, and the page made with it."""

from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from afcore.planning.simulate import Simulation
from tests.conftest import load_script
from tests.reports import make_report
from tests.test_cli_replay import autofreeze

SCRIPT = Path(__file__).parent.parent / "docs" / "draw_simulation.py"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    return load_script(SCRIPT)


def test_committed_page_and_picture_are_those_of_the_code(drawing: ModuleType) -> None:
    committed = drawing.PAGE.read_text(encoding="utf-8")
    assert committed == drawing.page(committed), "run: python docs/draw_simulation.py, and look"
    with Image.open(drawing.PICTURE) as picture:
        shown = picture.text["Description"]
    assert shown == drawing.points(), "run: python docs/draw_simulation.py, and look"


def test_it_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, report, figure = (tmp_path / name for name in ("trace.json", "out.json", "out.png"))
    trace.write_text(make_report().model_dump_json(by_alias=True))
    options = ("--trace", trace, "--report", report, "--figure", figure, "--global-batch", 96)
    assert autofreeze("simulate", "--cluster", "paper-p100", *options) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "│ performance │ " in out
    assert "recorded on 4 blocks" in out
    assert "Calibrated on the two points" in out
    found = Simulation.model_validate_json(report.read_text())
    assert (found.batch_size, found.recorded_blocks) == (96, 4)
    with Image.open(figure) as picture:
        assert picture.size[0] > 100


def test_what_cannot_be_drawn_leaves_the_earlier_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "out.xyz"
    figure.write_text("earlier")
    assert autofreeze("simulate", "--cluster", "paper-p100", "--figure", figure) == 2
    assert "out.xyz: cannot be written" in " ".join(capsys.readouterr().err.split())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.xyz": "earlier"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "nowhere"], "Give a YAML file, or one of h100-8x8, paper-p100"),
        (["--cluster", "h100-8x8", "--workload", "no"], "cannot read --workload"),
        (["--cluster", "h100-8x8", "--trace", "no.json"], "--trace no.json: cannot be read"),
    ],
)
def test_a_mistake_gets_one_message(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert autofreeze("simulate", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
