"""The command line, as tests call it and read what it says."""

from pathlib import Path

import pytest

from afcore.storage.objects import Storage

ENTRY = "from pipelines.cli import main; main()"


def autofreeze(*arguments: object) -> int:
    """Run the command line in this process; its exit code."""
    from pipelines.cli import app

    code = app([str(argument) for argument in arguments], standalone_mode=False)
    return int(code or 0)


def expect_one_message(capfd: pytest.CaptureFixture[str], message: str) -> None:
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err, out + err
    errors = [line for line in err.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1, err
    assert message in errors[0]


def nothing_believable(store: str) -> None:
    """No record that a later run would take for a result."""
    if Path(store).is_dir():
        keys = Storage(store).list("")
        assert not [key for key in keys if key.startswith(("runs/", "activations/"))]
