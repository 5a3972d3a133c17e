"""A set keeps the rows of another one: what is computed, what is read, mended, evicted."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from afcore.activations import extending
from afcore.activations import writer as writer_module
from afcore.activations.extending import Extension, find_extension, note_extendable
from afcore.activations.feed import HiddenFeed
from afcore.activations.garbage import collect_garbage
from afcore.activations.layout import RaggedLayout, plan_layout
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.sets import ActivationSet, open_set
from afcore.data.examples import Column, Examples
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from tests.activations.test_garbage import make_old
from tests.activations.test_materialize import recompute
from tests.conftest import BUCKET
from tests.training_setup import CPU_FP32, make_examples, make_split, make_trainee, new_set

EVERYTHING = make_examples(80)
IDS = npt.NDArray[np.int64]


class CountingRunner(PrefixRunner):
    """Notes how many examples the prefix is run over."""

    def __init__(self, ids: IDS, dtype: Any = "fp32") -> None:
        super().__init__(
            make_trainee(make_split(), compute=CPU_FP32, dtype=dtype, examples=some(ids))
        )
        self.num_run = 0

    def rows(self, ids: IDS, *arguments: Any, **options: Any) -> npt.NDArray[Any]:
        self.num_run += len(ids)
        return super().rows(ids, *arguments, **options)


def some(ids: IDS) -> Examples:
    column = EVERYTHING.inputs["input_ids"]
    return Examples(
        {"input_ids": Column.of([column.row(int(i)).tolist() for i in ids])},
        {"labels": Column(EVERYTHING.targets["labels"].values[ids])},
    )


def extension(storage: Storage, runner: PrefixRunner, folder: str) -> Extension | None:
    digests = runner.examples.example_digests
    return find_extension(storage, folder, recipe(runner), runner.lengths, lambda: digests)


def recipe(runner: PrefixRunner) -> dict[str, Any]:
    return {"weights": {}, "data": runner.examples.digest}


def build(
    storage: Storage, name: str, runner: PrefixRunner, source: ActivationSet | None = None
) -> ActivationSet:
    folder = f"activations/{name}"
    found = extension(storage, runner, folder) if source is None else None
    new = new_set(folder, [2] if source is None else [3], recipe=recipe(runner))
    plan = found.plan if found is not None else None
    made = materialize(storage, new, runner, source, plan=plan)
    note_extendable(storage, made)
    return made


def build_alone(storage: Storage, name: str, runner: PrefixRunner) -> ActivationSet:
    """A set that keeps nothing of others."""
    new = new_set(f"activations/{name}", [2], recipe=recipe(runner))
    return materialize(storage, new, runner, None)


def check_rows(found: ActivationSet, runner: PrefixRunner, boundary: int = 2) -> None:
    """All rows are those of the examples, up to what other neighbours in a batch change."""
    ids = np.arange(len(runner.examples))
    difference = HiddenFeed(found, runner).batch(ids)["hidden_states"]
    difference = difference - recompute(runner, ids, boundary)
    assert float(difference.abs().max()) < 1e-5


def small_layout(lengths: IDS, *, row_bytes: int) -> RaggedLayout:
    """Shards of about ten examples each."""
    return plan_layout(lengths, row_bytes=row_bytes, shard_bytes=100 * row_bytes)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extending, "plan_layout", small_layout)
    monkeypatch.setattr(writer_module, "plan_layout", small_layout)


FIRST = np.arange(50)
# Of the fifty, three leave; three come, in another order; one stands there twice.
SECOND = np.concatenate([[55, 7], np.arange(3, 50)[::-1], [51, 52]])
MANY = np.arange(80)[::-1]


def test_new_rows_cost_only_themselves(storage: Storage) -> None:
    first = build(storage, "a", CountingRunner(FIRST))
    runner = CountingRunner(SECOND)
    second = build(storage, "b", runner)
    assert runner.num_run == 3
    new_rows = int(EVERYTHING.lengths[[55, 51, 52]].sum())
    assert second.manifest.own_bytes == new_rows * 128
    assert sum(storage.list(f"{second.folder}/shards").values()) < new_rows * 128 + 1000
    assert len(first.manifest.shards) > 4
    check_rows(second, runner)
    assert second.verify() == []
    # A third night finds the rows wherever they were written.
    third = CountingRunner(np.append(SECOND, [58]))
    check_rows(build(storage, "c", third), third)
    assert third.num_run == 1


def test_what_has_another_prefix_or_few_of_the_rows_is_not_extended(storage: Storage) -> None:
    first = CountingRunner(FIRST)
    build(storage, "a", first)
    other = new_set("activations/x", recipe={"weights": {"block.000": "other"}})
    digests = first.examples.example_digests
    assert (
        find_extension(storage, other.folder, other.recipe, first.lengths, lambda: digests) is None
    )
    few = CountingRunner(np.concatenate([np.arange(10), np.arange(50, 60), np.arange(50, 60)]))
    assert extension(storage, few, "activations/x") is None


def test_a_shard_most_of_whose_rows_have_left_is_not_kept(local_storage: Storage) -> None:
    first = build(local_storage, "a", CountingRunner(FIRST))
    gone = first.layout.examples(0)[1:]
    runner = CountingRunner(np.setdiff1d(FIRST, gone))
    found = build(local_storage, "b", runner)
    assert runner.num_run == 1
    assert len(found.manifest.shards) == len(first.manifest.shards)
    check_rows(found, runner)


def test_small_shards_of_many_nights_become_one(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(local_storage, "a", CountingRunner(FIRST))
    monkeypatch.setattr(extending, "_SMALL_BYTES", 30 * 128)
    monkeypatch.setattr(extending, "_MOST_SMALL", 2)
    counts = []
    for night in range(4):
        runner = CountingRunner(np.arange(51 + night))
        found = build(local_storage, f"night-{night}", runner)
        check_rows(found, runner)
        counts.append(len(found.manifest.shards))
    assert counts[-1] <= counts[0] + 2


def test_a_kept_shard_that_is_damaged_is_mended_in_the_set_that_reads_it(
    local_storage: Storage,
) -> None:
    first = build(local_storage, "a", CountingRunner(FIRST))
    runner = CountingRunner(SECOND)
    second = build(local_storage, "b", runner)
    kept = next(shard for shard in second.manifest.shards if shard.folder == first.folder)
    chunk = Path(local_storage.root) / first.folder / kept.name / "c/0/0"
    chunk.write_bytes(b"\0" * chunk.stat().st_size)
    check_rows(second, runner)
    mended = open_set(local_storage, second.folder)
    assert mended is not None
    assert mended.verify() == []
    check_rows(mended, runner)
    assert len(first.verify()) == 1  # mends its own when it is read
    assert chunk.exists()


def test_a_set_is_built_upon_one_that_keeps_rows(local_storage: Storage) -> None:
    build(local_storage, "a", CountingRunner(FIRST))
    runner = CountingRunner(SECOND)
    lower = build(local_storage, "b", runner)
    upper = build(local_storage, "c", runner, source=lower)
    check_rows(upper, runner, boundary=3)
    assert upper.verify() == []
    assert upper.manifest.own_bytes == int(runner.lengths.sum()) * 128


def test_shards_that_another_set_keeps_outlive_their_own(local_storage: Storage) -> None:
    first = build(local_storage, "a", CountingRunner(FIRST))
    runner = CountingRunner(SECOND)
    second = build(local_storage, "b", runner)
    second.record_use("r", "runs/r")
    local_storage.put("runs/r/run.json", b'{"training_id": "t", "weights": {}}')
    with Lease(local_storage, "runs/r/lease", "run r"):
        (gone,) = collect_garbage(local_storage.root, max_idle_seconds=1e6, max_bytes=1)
    assert (gone.folder, gone.num_bytes) == (first.folder, 0)
    assert open_set(local_storage, first.folder) is None
    make_old(local_storage)
    collect_garbage(local_storage.root, max_idle_seconds=1e6)
    assert second.verify() == []
    check_rows(second, runner)
    # The first one's rows come back: its own shards are found where they are.
    back = CountingRunner(FIRST)
    check_rows(build(local_storage, "a", back), back)
    assert back.num_run == 3
    for folder in (first.folder, second.folder):
        local_storage.delete(f"{folder}/manifest.json")
    make_old(local_storage)
    collect_garbage(local_storage.root, max_idle_seconds=1e6)
    assert not local_storage.list("activations")


def test_an_evicted_set_is_not_looked_at_any_more(local_storage: Storage) -> None:
    found = build(local_storage, "a", CountingRunner(FIRST))
    assert len(local_storage.list("activations_by_prefix")) == 1
    (gone,) = collect_garbage(local_storage.root, max_idle_seconds=0)
    assert gone.folder == found.folder
    assert local_storage.list("") == {}


@pytest.mark.s3
def test_sets_that_cannot_be_extended_are_not_asked_for(
    s3_endpoint: str, tmp_path: Path, s3_requests: Counter[str]
) -> None:
    storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}")
    for number in range(30):
        storage.put(f"activations/other-{number}/manifest.json", b"{}")
    runner = CountingRunner(FIRST)
    s3_requests.clear()
    assert extension(storage, runner, "activations/new") is None
    assert s3_requests == {"list_objects_v2": 1}
    for name, ids in (("old", FIRST[:30]), ("new", FIRST)):
        note_extendable(storage, build_alone(storage, name, CountingRunner(ids)))
    s3_requests.clear()
    found = extension(storage, CountingRunner(SECOND), "activations/newer")
    assert found is not None
    assert found.found.folder == "activations/new"
    assert s3_requests["list_objects_v2"] == 1
    assert s3_requests["get_object"] <= 5, "the newest has nearly all, so it alone is opened"
