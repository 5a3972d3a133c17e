import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from afcore.errors import AutoFreezeError, LeaseHeldError, StoreError, StoreUnreachableError
from afcore.processes import KnownProcess
from afcore.storage import lease as lease_module
from afcore.storage.lease import Lease, attempts, is_held
from afcore.storage.objects import Storage
from afcore.storage.stored import Stored


def test_one_holder_at_a_time(storage: Storage) -> None:
    with Lease(storage, "lease", "run x") as first:
        assert is_held(storage, "lease")
        with (
            pytest.raises(LeaseHeldError, match=rf"run x .* process {os.getpid()}"),
            Lease(storage, "lease", "run x"),
        ):
            pass
        first.check()
    assert not is_held(storage, "lease")
    with Lease(storage, "lease", "run x") as second:
        assert second.number == 2
    assert list(attempts(storage, "lease")) == [1, 2]


def _write(
    storage: Storage, *, beat: float | None = None, released: bool = False, **changes: Any
) -> None:
    row = {
        "process": asdict(KnownProcess.of(psutil.Process())) | changes,
        "acquired": time.time() - 7,
        "beat": time.time() if beat is None else beat,
        "released": released,
    }
    storage.put("lease/000001.json", json.dumps(row).encode())


def test_a_dead_process_of_this_machine_is_succeeded_at_once(local_storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    _write(local_storage, pid=process.pid)
    with Lease(local_storage, "lease", "run x") as lease:
        assert lease.number == 2
        assert lease.seconds() >= 7


def test_a_reused_process_id_is_not_the_holder(local_storage: Storage) -> None:
    _write(local_storage, began=1.0)
    with Lease(local_storage, "lease", "run x"):
        pass


@pytest.mark.usefixtures("quick_hearts")
def test_a_silent_holder_elsewhere_is_waited_for_then_succeeded(local_storage: Storage) -> None:
    _write(local_storage, machine="elsewhere")
    with pytest.raises(LeaseHeldError), Lease(local_storage, "lease", "run x"):
        pass
    _write(local_storage, machine="elsewhere", beat=time.time() - lease_module.EXPIRY_SECONDS - 1)
    with Lease(local_storage, "lease", "run x"):
        pass


HOUR = 3600.0
JUMPS = [HOUR, -HOUR, 72 * HOUR, -72 * HOUR]


@pytest.mark.usefixtures("quick_hearts")
@pytest.mark.parametrize("jump", JUMPS)
def test_a_clock_that_jumps_takes_no_lease_from_who_works(
    jump: float, local_storage: Storage, wrong_by: list[float]
) -> None:
    """Not on this machine, and not by another one whose clock is another."""
    with Lease(local_storage, "lease", "run x") as lease:
        wrong_by[0] = jump
        assert is_held(local_storage, "lease", watched=True)
        with (
            pytest.raises(LeaseHeldError, match="already being worked on"),
            Lease(local_storage, "lease", "run x"),
        ):
            pass
        lease.check()
        assert 0 <= lease.seconds() < 60
    assert 0 <= attempts(local_storage, "lease")[1].seconds < 60
    assert attempts(local_storage, "lease")[1].released


@pytest.mark.usefixtures("quick_hearts")
@pytest.mark.parametrize("jump", JUMPS)
def test_a_dead_holder_is_succeeded_whatever_time_it_was_there(
    jump: float, local_storage: Storage
) -> None:
    _write(local_storage, machine="elsewhere", beat=time.time() + jump)
    assert not is_held(local_storage, "lease")
    began = time.monotonic()
    assert not is_held(local_storage, "lease", watched=True)
    assert time.monotonic() - began > lease_module.BEAT_SECONDS, "nobody looked twice"
    with Lease(local_storage, "lease", "run x") as lease:
        assert lease.number == 2


def test_work_that_began_before_is_counted_by_a_clock_that_nobody_sets(
    local_storage: Storage, wrong_by: list[float]
) -> None:
    since = time.monotonic() - 100.0
    wrong_by[0] = -5 * HOUR
    with Lease(local_storage, "lease", "run x", since) as lease:
        wrong_by[0] = 5 * HOUR
        assert 100 <= lease.seconds() < 160


def test_a_row_of_an_earlier_release_is_read(local_storage: Storage) -> None:
    _write(local_storage, released=True)
    assert 6 < attempts(local_storage, "lease")[1].seconds < 60


def test_who_cannot_give_a_lease_back_does_not_shut_itself_out(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store became read-only, say; in a notebook the same process tries again."""

    def refuse(*_: object) -> None:
        raise StoreError("read-only")

    with monkeypatch.context() as patched, Lease(local_storage, "lease", "run x"):
        patched.setattr(local_storage, "put", refuse)
    assert b'"released": false' in Path(local_storage.root, "lease/000001.json").read_bytes()
    assert not is_held(local_storage, "lease")
    with Lease(local_storage, "lease", "run x") as lease:
        assert lease.number == 2


def test_a_heart_that_cannot_beat_says_so_once(
    local_storage: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.01)
    tried = []

    def refuse(*_: object) -> bool:
        tried.append(1)
        raise StoreError("read-only")

    with Lease(local_storage, "lease", "run x"), monkeypatch.context() as patched:
        patched.setattr(local_storage, "exists", refuse)
        while len(tried) < 5:
            time.sleep(0.01)
    assert [r.message for r in caplog.records] == ["heartbeat of run x: read-only"]


def test_a_holder_that_was_succeeded_notices(local_storage: Storage) -> None:
    with Lease(local_storage, "lease", "run x") as lease:
        local_storage.put("lease/000002.json", local_storage.get("lease/000001.json"))
        with pytest.raises(AutoFreezeError, match="taken over"):
            lease.check()


def test_a_store_that_is_away_for_a_moment_costs_no_lease(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise StoreUnreachableError("away")

    with Lease(local_storage, "lease", "run x") as lease:
        with monkeypatch.context() as patched:
            patched.setattr(local_storage, "exists", away)
            with pytest.raises(StoreUnreachableError):
                lease.check()
        lease.check()
    assert attempts(local_storage, "lease")[1].released


def test_an_answer_that_was_lost_costs_no_lease(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_new = local_storage.put_new

    def lost(key: str, data: bytes) -> bool:
        return put_new(key, data) and put_new(key, data)  # as a client that asks again

    monkeypatch.setattr(local_storage, "put_new", lost)
    with Lease(local_storage, "lease", "run x") as lease:
        lease.check()
    assert attempts(local_storage, "lease")[1].released


def test_another_s_row_is_no_answer_that_was_lost(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_storage, "put_new", lambda *_: _write(local_storage))
    with (
        pytest.raises(LeaseHeldError, match="taken up by another"),
        Lease(local_storage, "lease", "run x"),
    ):
        pass


def test_the_heart_beats(local_storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.01)
    with Lease(local_storage, "lease", "run x"):
        first = attempts(local_storage, "lease")[1].beat
        for _ in range(200):
            time.sleep(0.01)
            if attempts(local_storage, "lease")[1].beat > first:
                break
        else:
            pytest.fail("no heartbeat in two seconds")


def test_forgetting_earlier_attempts(local_storage: Storage) -> None:
    with Lease(local_storage, "lease", "run x"):
        pass
    with Lease(local_storage, "lease", "run x") as lease:
        lease.forget_earlier()
    assert list(attempts(local_storage, "lease")) == [2]
    with Lease(local_storage, "lease", "run x") as lease:
        assert lease.number == 3


@pytest.mark.usefixtures("quick_hearts")
def test_an_unlogged_lease_leaves_nothing(storage: Storage) -> None:
    _write(storage, machine="elsewhere", beat=time.time() - lease_module.EXPIRY_SECONDS - 1)
    with Lease(storage, "lease", "set x", logged=False) as lease:
        assert lease.number == 2
        assert is_held(storage, "lease")
    assert storage.list("lease") == {}


def test_one_that_was_overtaken_unawares_leaves_its_successor_alone(storage: Storage) -> None:
    with Lease(storage, "lease", "set x", logged=False):
        storage.put("lease/000002.json", storage.get("lease/000001.json"))
    assert is_held(storage, "lease")
    assert list(attempts(storage, "lease")) == [1, 2]


def test_a_row_that_vanishes_while_rows_are_read_is_none(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"lease/000001.json": Stored(9, 0.0)}
    monkeypatch.setattr(local_storage, "listing", lambda prefix: rows)
    assert attempts(local_storage, "lease") == {}


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"process": 1}', b'{"host": 1}', b"\xff"])
def test_a_damaged_row_is_of_nobody_who_lives(damaged: bytes, storage: Storage) -> None:
    storage.put("lease/000001.json", damaged)
    storage.put("lease/.DS_Store", b"not ours")
    assert not is_held(storage, "lease")
    assert attempts(storage, "lease")[1].seconds == 0
    with Lease(storage, "lease", "run x") as lease:
        assert lease.number == 2
        assert lease.seconds() < 600
