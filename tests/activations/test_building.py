"""One builder at a time, whoever dies meanwhile."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.activations import layout as layout_module
from afcore.activations import writer as writer_module
from afcore.activations.building import build_lease, evict, open_or_build
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.sets import ActivationSet, open_set, users_of
from afcore.activations.writer import ActivationWriter
from afcore.errors import StoppedError
from afcore.interrupt import catch_sigterm
from afcore.storage.objects import Storage
from tests.conftest import BUCKET
from tests.training_setup import make_split, make_trainee, new_set

FOLDER = "activations/some-key"
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


def small_shards() -> None:
    """Several shards for a few rows, in this process."""
    plan = layout_module.plan_layout
    writer_module.plan_layout = lambda lengths, row_bytes: plan(
        lengths, row_bytes=row_bytes, shard_bytes=4096
    )


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "plan_layout", layout_module.plan_layout)
    small_shards()


def want(storage: Storage, run: str) -> tuple[ActivationSet, bool, float]:
    """What a run does that wants the set."""
    runner = PrefixRunner(make_trainee(make_split()))
    opened = open_or_build(
        storage,
        FOLDER,
        lambda check: materialize(
            storage,
            new_set(FOLDER, producer=run),
            runner,
            check=check,
        ),
        what="activations@2",
        num_bytes=runner.num_bytes,
        note_use=lambda found: found.record_use(run, f"runs/{run}"),
    )
    return opened.activation_set, opened.built, opened.seconds


def _child(root: str, run: str, environment: dict[str, str], results: Any) -> None:
    """In another process: want the set and write its shards slowly."""
    os.environ.update(environment)
    small_shards()
    write_shard = ActivationWriter.write_shard

    def slowly(self: ActivationWriter, shard: int, rows: np.ndarray) -> None:
        write_shard(self, shard, rows)
        time.sleep(0.2)

    ActivationWriter.write_shard = slowly  # type: ignore[method-assign]
    found, built, _ = want(Storage(root), run)
    results.put((built, found.manifest.index))


def start_child(root: str, run: str) -> tuple[multiprocessing.process.BaseProcess, Any]:
    """The process, forked from one that has imported everything, and what it will tell."""
    results = _SERVER.SimpleQueue()
    process = _SERVER.Process(target=_child, args=(root, run, dict(os.environ), results))
    process.start()
    return process, results


def wait_for_shards(storage: Storage) -> None:
    for _ in range(1800):
        if storage.list(f"{FOLDER}/shards"):
            return
        time.sleep(0.1)
    pytest.fail("no shard was written in three minutes")


def written(storage: Storage) -> list[str]:
    """Shards and indices there, whatever generation they are of."""
    keys = [key.removeprefix(f"{FOLDER}/") for key in storage.list(FOLDER)]
    parts = {"/".join(key.split("/")[:-3]) for key in keys if "/c/" in key}
    return sorted(parts)


def check_whole(storage: Storage) -> ActivationSet:
    """Committed, sound, and nothing but what its manifest lists."""
    found = open_set(storage, FOLDER)
    assert found is not None
    assert found.verify() == []
    assert len(found.manifest.shards) > 3
    assert written(storage) == sorted(entry.name for entry in found.manifest.entries)
    assert not storage.list(f"{FOLDER}/build")
    return found


def test_two_that_want_the_same_set_build_it_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard, calls = ActivationWriter.write_shard, []

    def counted(self: ActivationWriter, shard: int, rows: np.ndarray) -> None:
        calls.append(shard)
        write_shard(self, shard, rows)
        time.sleep(0.1)

    monkeypatch.setattr(ActivationWriter, "write_shard", counted)
    barrier, results = threading.Barrier(2), []

    def work(run: str) -> None:
        barrier.wait()
        results.append(want(storage, run))

    threads = [threading.Thread(target=work, args=(f"r{number}",)) for number in range(2)]
    with caplog.at_level(logging.INFO, logger="afcore"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = check_whole(storage)
    assert calls == list(range(len(found.manifest.shards)))
    assert sorted(built for _, built, _ in results) == [False, True]
    assert min(seconds for _, _, seconds in results) > 0.1
    assert "waiting: " in caplog.text
    one, other = (result[0] for result in results)
    assert one.manifest == other.manifest
    assert np.array_equal(one.read_shard(1), other.read_shard(1))
    assert set(users_of(storage, FOLDER)) == {"runs/r0", "runs/r1"}
    assert want(storage, "r2")[1:] == (False, 0.0)


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_two_processes_build_it_once(tmp_path: Path) -> None:
    root = f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}"
    other, results = start_child(root, "r0")
    wait_for_shards(Storage(root))
    mine, built, seconds = want(Storage(root), "r1")
    other.join(240)
    assert other.exitcode == 0
    found = check_whole(Storage(root))
    assert results.get() == (True, found.manifest.index)
    assert (built, mine.manifest.index) == (False, found.manifest.index)
    assert seconds > 0, "there was nothing to wait for"


@pytest.mark.slow
def test_a_killed_builder_is_succeeded(local_storage: Storage) -> None:
    storage, results = local_storage, []
    builder, _ = start_child(storage.root, "killed")
    wait_for_shards(storage)
    waiter = threading.Thread(target=lambda: results.append(want(storage, "waiter")))
    waiter.start()
    time.sleep(0.3)
    assert not results
    builder.kill()
    builder.join(240)
    assert builder.exitcode == -signal.SIGKILL
    waiter.join()
    assert check_whole(storage).manifest.producer == "waiter"
    assert results[0][1]


def test_who_waits_for_a_builder_can_be_stopped(local_storage: Storage) -> None:
    stopped: list[StoppedError] = []

    def wait_for_it() -> None:
        try:
            want(local_storage, "waiter")
        except StoppedError as error:
            stopped.append(error)

    with catch_sigterm(), build_lease(local_storage, FOLDER, "set"):
        waiter = threading.Thread(target=wait_for_it)
        waiter.start()
        waiter.join(1.0)
        assert waiter.is_alive(), "it waits"
        os.kill(os.getpid(), signal.SIGTERM)
        waiter.join(30)
        assert not waiter.is_alive()
    (error,) = stopped
    assert error.what == "stopped while activations@2 was built by another run, as asked by SIGTERM"
    assert want(local_storage, "next")[1], "nothing is in the way"


def test_a_builder_that_was_overtaken_leaves_nothing_and_uses_the_others(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped for longer than its lease lasts, then continued."""
    write_shard, writers = ActivationWriter.write_shard, []

    def overtaken(self: ActivationWriter, shard: int, rows: np.ndarray) -> None:
        write_shard(self, shard, rows)
        writers.append(self)
        if len(writers) == 1:
            local_storage.put(
                f"{FOLDER}/build/000002.json", local_storage.get(f"{FOLDER}/build/000001.json")
            )
            other = PrefixRunner(make_trainee(make_split()))
            materialize(local_storage, new_set(FOLDER, producer="other"), other)
            local_storage.delete_folder(f"{FOLDER}/build")
            local_storage.put(f"{FOLDER}/build/000002.json", b"")
            threading.Timer(
                0.2, lambda: local_storage.delete(f"{FOLDER}/build/000002.json")
            ).start()

    monkeypatch.setattr(ActivationWriter, "write_shard", overtaken)
    found, built, _ = want(local_storage, "stopped")
    assert not built
    assert found.manifest.producer == "other"
    assert writers.count(writers[0]) == 1
    time.sleep(0.3)
    check_whole(local_storage)


def test_a_builder_that_fails_makes_way(local_storage: Storage) -> None:
    def fail(check: object) -> ActivationSet:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        open_or_build(
            *(local_storage, FOLDER, fail),
            **{"what": "set", "num_bytes": 1, "note_use": lambda found: None},
        )
    assert want(local_storage, "next")[1]


def test_a_damaged_set_is_built_again(storage: Storage) -> None:
    found, _, _ = want(storage, "r")
    storage.put(f"{FOLDER}/manifest.json", b"{torn")
    again, built, _ = want(storage, "r")
    assert built
    assert again.manifest.index != found.manifest.index
    check_whole(storage)


def test_an_evicted_set_is_gone(storage: Storage) -> None:
    want(storage, "r")
    assert evict(storage, FOLDER, lambda: False)
    assert open_set(storage, FOLDER) is None
    assert storage.list("activations") == {}
    assert not evict(storage, FOLDER, lambda: False)
    assert want(storage, "r")[1]


def test_a_set_that_is_opened_while_it_is_evicted_stays(local_storage: Storage) -> None:
    want(local_storage, "r")
    answers = iter([False, True])
    assert not evict(local_storage, FOLDER, lambda: next(answers))
    check_whole(local_storage)


def test_a_run_whose_note_comes_too_late_builds_anew(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    want(local_storage, "r")
    record_use, notes = ActivationSet.record_use, []

    def late(self: ActivationSet, run_id: str, run_folder: str) -> None:
        if not notes:
            assert evict(local_storage, FOLDER, lambda: False)
        notes.append(run_id)
        record_use(self, run_id, run_folder)

    monkeypatch.setattr(ActivationSet, "record_use", late)
    assert want(local_storage, "late")[1]
    check_whole(local_storage)
    assert len(users_of(local_storage, FOLDER)) == 1


def test_what_is_being_built_is_not_evicted(local_storage: Storage) -> None:
    want(local_storage, "r")
    with build_lease(local_storage, FOLDER, "set"):
        assert not evict(local_storage, FOLDER, lambda: False)
    check_whole(local_storage)
