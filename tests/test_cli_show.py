"""What ``show`` is given that it cannot use."""

from pathlib import Path

import pytest

from tests.e2e.command import autofreeze, expect_one_message


def test_a_run_by_its_id_takes_no_settings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--store", str(tmp_path / "store"), "--set", "training.seed=1"]
    assert autofreeze("show", "0123abcd", *options) == 2
    expect_one_message(capfd, "--set 'training.seed=1' changes a configuration, and '0123abcd' is")
