"""Several processes on one study of Optuna's, and a database that is lost meanwhile."""

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from sqlalchemy import Engine, event

from afcore.errors import StoppedError, StoreLostError, StoreUnreachableError
from afcore.interrupt import catch_sigterm, request_stop
from afcore.processes import KnownProcess
from afcore.search import study as study_module
from afcore.search.search_report import TrialRow
from afcore.search.study import SharedStudy, TrialHandle, open_database, waited_for
from afcore.storage.lease import EXPIRY_SECONDS, Lease, is_held
from afcore.storage.objects import Storage
from tests.search.test_sampling import opened

FOLDER = "searches/test"


@pytest.fixture(autouse=True)
def _polls_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "_POLL_SECONDS", 0.02)


def finished(handle: TrialHandle) -> TrialRow:
    return handle.row.model_copy(update={"state": "finished", "score": 1.0})


def test_a_trial_that_another_process_takes_up_at_once_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    ask, taken = first.study.ask, list[TrialHandle | None]()
    with contextlib.ExitStack() as stack:

        def asked() -> Any:
            trial = ask()
            if not taken:
                taken.append(stack.enter_context(second.next_trial(3)))
            return trial

        monkeypatch.setattr(first.study, "ask", asked)
        with first.next_trial(3) as handle:
            assert handle is not None
            assert taken[0] is not None
            assert (taken[0].number, handle.number) == (0, 1)


def test_who_asks_next_sees_what_a_trial_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, suggest, seen = opened(tmp_path), study_module.suggest, list[bool]()

    def suggested(*args: Any) -> Any:
        seen.append(is_held(Storage(str(tmp_path / "store")), f"{FOLDER}/list"))
        return suggest(*args)

    monkeypatch.setattr(study_module, "suggest", suggested)
    with study.next_trial(1):
        assert not is_held(Storage(str(tmp_path / "store")), f"{FOLDER}/list")
    assert seen == [True] * 3


def test_who_finds_no_more_to_begin_waits_for_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    assert not second.wait_for_others()
    caplog.set_level(logging.INFO, "afcore")
    with ThreadPoolExecutor(1) as pool, first.next_trial(1) as handle:
        assert handle is not None
        with second.next_trial(1) as none:
            assert none is None
        waiting = pool.submit(second.wait_for_others)
        with pytest.raises(TimeoutError):
            waiting.result(0.5)
        first.end(handle, finished(handle))
        assert not waiting.result(30)
    said = [line for line in caplog.messages if line.startswith("waiting")]
    assert said == ["waiting for other processes, which work on trial 0"]


def test_who_was_given_fewer_trials_waits_until_nobody_begins_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    caplog.set_level(logging.INFO, "afcore")
    with ThreadPoolExecutor(1) as pool:
        with first.beginning():
            for number in range(2):
                with first.next_trial(2) as handle:
                    assert handle is not None
                    first.end(handle, finished(handle))
                if number == 0:  # between two trials none runs
                    with second.beginning(), second.next_trial(1) as none:
                        assert none is None
                    waiting = pool.submit(second.wait_for_others)
                with pytest.raises(TimeoutError):
                    waiting.result(0.3)
            assert first.may_begin()
        assert not waiting.result(30)
    assert not first.may_begin()
    assert [row.number for row in second.rows()] == [0, 1]
    said = [line for line in caplog.messages if line.startswith("waiting")]
    assert said == ["waiting for other processes, which may begin more trials"]


def test_nobody_waits_for_a_process_that_was_killed_before_it_began_all(tmp_path: Path) -> None:
    study, storage = opened(tmp_path), Storage(str(tmp_path / "store"))
    gone = asdict(KnownProcess.of(psutil.Process())) | {"pid": 2**30}
    row = {"process": gone, "acquired": time.time(), "beat": time.time(), "released": False}
    storage.put(f"{FOLDER}/beginning/abc/000001.json", json.dumps(row).encode())
    assert not study.may_begin()
    assert not study.wait_for_others()


def test_who_waits_goes_on_with_what_was_left(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    with first.next_trial(1) as handle:
        assert handle is not None
    assert second.wait_for_others()
    with second.next_trial(1) as left:
        assert left is not None
        assert left.number == handle.number


def test_who_waits_waits_for_a_store_that_is_away_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, listing, outages = opened(tmp_path), Storage.list, iter([1])
    study._storage = Storage(str(tmp_path / "store"), waits=True)

    def listed(storage: Storage, prefix: str) -> dict[str, int]:
        if next(outages, None):
            raise StoreUnreachableError("the store does not answer")
        return listing(storage, prefix)

    monkeypatch.setattr(Storage, "list", listed)
    assert not study.wait_for_others()
    assert next(outages, None) is None


@pytest.mark.usefixtures("quick_hearts")
def test_a_trial_of_a_process_elsewhere_is_left_when_that_gives_no_sign(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    with first.next_trial(1):
        pass
    storage, now = Storage(str(tmp_path / "store")), time.time()

    def beats(beat: float) -> None:
        process = asdict(KnownProcess.of(psutil.Process())) | {"machine": "elsewhere"}
        row = {"process": process, "acquired": now, "beat": beat, "released": False}
        storage.put(f"{FOLDER}/00000/000001.json", json.dumps(row).encode())

    beats(now)
    with second.next_trial(1) as none:
        assert none is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(second.wait_for_others)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        beats(now - EXPIRY_SECONDS - 1)
        assert waiting.result(30)
    with second.next_trial(1) as left:
        assert left is not None


def test_who_waits_stops_when_asked_to(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    with catch_sigterm(), first.next_trial(1):
        request_stop()
        with pytest.raises(StoppedError, match="while other processes were at work"):
            second.wait_for_others()


def test_a_longer_wait_for_a_lease_is_said_once(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(study_module, "_SAID_AFTER_SECONDS", 0.1)
    caplog.set_level(logging.INFO, "afcore")

    def holds() -> bool:
        with waited_for(Lease(local_storage, "lease", "run x"), 0.02):
            return True

    with ThreadPoolExecutor(1) as pool:
        with Lease(local_storage, "lease", "run x"):
            waiting = pool.submit(holds)
            time.sleep(0.5)
        assert waiting.result(30)
    said = [line for line in caplog.messages if line.startswith("waiting")]
    assert len(said) == 1
    assert "run x is already being worked on by process" in said[0]


ASKED: dict[str, Callable[[SharedStudy, TrialHandle], object]] = {
    "note": lambda _, handle: handle.note(handle.row),
    "is_pruned": lambda _, handle: handle.is_pruned(1, 0.5),
    "end": lambda study, handle: study.end(handle, finished(handle)),
    "rows": lambda study, _: study.rows(),
    "list_proposals": lambda study, _: study.list_proposals(9, lambda _: (b"", 0, b"", 0.0)),
    "next_trial": lambda study, _: study.next_trial(9).__enter__(),
    "wait_for_others": lambda study, _: study.wait_for_others(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_database_that_is_lost_is_one_message(tmp_path: Path, asked: str) -> None:
    study = opened(tmp_path)
    with study.next_trial(1) as handle:
        assert handle is not None
        with contextlib.closing(sqlite3.connect(tmp_path / "optuna.db")) as connection:
            connection.executescript("DROP TABLE trials; DROP TABLE studies")
        with pytest.raises(StoreLostError, match=r"search\.storage .*: no such table: .* goes on"):
            ASKED[asked](study, handle)


@pytest.mark.parametrize("asked", ASKED)
def test_a_study_that_somebody_deletes_is_one_message(tmp_path: Path, asked: str) -> None:
    study = opened(tmp_path)
    with study.next_trial(1) as handle:
        assert handle is not None
        optuna.delete_study(study_name=study.study.study_name, storage=study.study._storage)
        with pytest.raises(
            StoreLostError, match=r"search\.storage .*Record does not exist.* goes on"
        ):
            ASKED[asked](study, handle)


def test_a_database_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    opened(tmp_path)

    def read_only(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA query_only=ON")

    event.listen(Engine, "connect", read_only)
    try:
        with pytest.raises(StoreUnreachableError, match="attempt to write a readonly") as found:
            opened(tmp_path)
    finally:
        event.remove(Engine, "connect", read_only)
    assert found.value.exit_code == 2


def test_a_connection_to_a_server_is_tried_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened_with: list[dict[str, Any]] = []
    monkeypatch.setattr(
        study_module, "RDBStorage", lambda _, engine_kwargs: opened_with.append(engine_kwargs)
    )
    open_database("postgresql://host/database")
    assert opened_with == [{"pool_pre_ping": True}]
