"""``make test-faults`` goes on with the tests that did not pass yet."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_what_passed_is_not_run_again(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Also where it exists: pytest takes it for a path of tests in ``--done-file FILE``."""
    lines = subprocess.run(
        ["make", "-n", "test-faults"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    (line,) = [one for one in lines if "-m faults" in one]
    done = tmp_path / "done"
    done.write_text(f"{request.node.nodeid}\n")
    _, *arguments = shlex.split(line.replace(".faults-done", str(done)))
    others = [f"--ignore-glob=tests/{glob}" for glob in ("*/*", "test_[!d]*", "test_d[!o]*")]
    found = subprocess.run(
        [sys.executable, *arguments, "-m", "", "--collect-only", *others],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "(1 deselected)" in found.stdout, found.stderr
    assert found.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
