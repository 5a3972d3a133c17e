import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from afcore import clock
from afcore.processes import KnownProcess

SLEEP = (sys.executable, "-c", "import time; time.sleep(60)")


def test_a_process_is_found_until_it_ends() -> None:
    child = subprocess.Popen(SLEEP)
    known = KnownProcess.of(psutil.Process(child.pid))
    try:
        assert known.is_here
        assert known.find() == psutil.Process(child.pid)
    finally:
        child.kill()
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert known.find() is None, "nobody has reaped it yet"
        child.wait()
    assert known.find() is None
    with pytest.raises(psutil.NoSuchProcess):
        KnownProcess.of(psutil.Process(child.pid))


def test_another_process_with_its_number_is_not_taken_for_it() -> None:
    known = KnownProcess.of(psutil.Process())
    assert known.find() is not None
    assert replace(known, began=known.began - 60.0).find() is None


@pytest.mark.parametrize("name", ["create_time", "status"])
def test_one_that_may_not_be_looked_at_is_not_taken_to_be_gone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another user, where /proc is mounted with hidepid=1."""
    known = KnownProcess.of(psutil.Process())

    def denied(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, name, denied)
    found = known.find()
    assert found is not None
    assert found.pid == known.pid


def test_where_those_of_others_are_hidden_they_are_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc is mounted with hidepid=2."""
    monkeypatch.setattr(clock, "_FIRST_PROCESS", tmp_path / "hidden")
    mine = KnownProcess.of(psutil.Process())
    assert mine.is_here
    assert mine.find() is not None
    monkeypatch.setattr(os, "getuid", lambda: -1)
    assert not mine.is_here, "whether it lives, its heart says"
    assert mine.host == KnownProcess.of(psutil.Process()).host


def test_elsewhere_nothing_is_known_of_it() -> None:
    """Nor after a reboot, where its number may be that of another."""
    known = replace(KnownProcess.of(psutil.Process()), machine="elsewhere/boot/namespace")
    assert not known.is_here
    assert known.find() is None
    assert known.host == "elsewhere"


@pytest.mark.skipif(sys.platform != "linux", reason="patches how psutil reads Linux's clock")
@pytest.mark.parametrize("seconds", [1.0, -3600.0, 86400.0])
def test_a_clock_that_is_set_changes_nothing(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownProcess.of(psutil.Process())
    true, before = psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: true + seconds)
    assert psutil.Process().create_time() == pytest.approx(before + seconds)
    assert known.find() is not None
