"""The picture in the README shows the stages that the code has."""

import inspect
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from afcore.runs import epoch
from tests.conftest import load_script

SCRIPT = Path(__file__).parent.parent / "docs" / "draw_stages.py"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    return load_script(SCRIPT)


def test_committed_picture_shows_the_stages_of_the_code(drawing: ModuleType) -> None:
    with Image.open(drawing.PICTURE) as picture:
        shown = picture.text["Description"]

    assert shown == drawing.read_stages().to_json(), "run: python docs/draw_stages.py, and look"


def test_names_come_from_the_code(drawing: ModuleType) -> None:
    stages = drawing.read_stages()

    assert stages.tasks == ("prepare", "epoch", "publish")
    assert stages.records == ("started.json", "checkpoint.json", "(set)", "report.json")
    assert stages.sources == ("tokens", "activations@k")
    assert stages.shared == ("data/<digest>/", "activations/<key>/")
    assert (stages.run, stages.epoch_folder) == ("runs/<run id>/", "<training id>/epochs/001/")
    assert all(meaning for _, meaning in stages.files)


def test_a_renamed_record_is_noticed(drawing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = inspect.getdoc(epoch).replace("checkpoint.json", "state.json")
    monkeypatch.setattr(epoch, "__doc__", renamed)

    with pytest.raises(ValueError, match=r"an epoch commits .*checkpoint.*state"):
        drawing.read_stages()
