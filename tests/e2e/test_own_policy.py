"""A policy that this project does not have: one file and one line of the registry."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import afcore
from tests.conftest import write_config

ROOT = Path(afcore.__file__).parent.parent


@pytest.mark.slow
def test_it_is_configured_planned_trained_and_recorded(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config)
    # The file configures gradient_norm, with 3 intervals an epoch.
    settings = ("freezing.policy=every_nth", "freezing.every=2")
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.own_policy", str(config), *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["policy"] == {"policy": "every_nth", "intervals_per_epoch": 3, "every": 2}
    assert found["boundaries"] == [0, 1, 2, 3]
    assert found["planned"] == [["full", "nothing freezes"]]
    assert found["followed"] == [["cached", "as recorded"]]
    assert "There is no forecast for freezing.policy 'every_nth'" in found["notes"][1]
    # One block more after the intervals 2, 4 and 6 of three an epoch: the memory outlives one.
    assert found["decided"] == [2, 2, 3]
    assert found["boundary"] == 3
    assert len(found["steps"]) == 6
    assert found["steps"] == sorted(set(found["steps"]))
    assert found["infinite"] == [True] * 6
