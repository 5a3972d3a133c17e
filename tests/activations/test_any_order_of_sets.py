"""Activation sets under any order of building, extending, damage, repair and clean-up."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from afcore.activations import extending, leftovers
from afcore.activations import writer as writer_module
from afcore.activations.building import build_lease, delete_parts
from afcore.activations.codec import STORED_AS, RowFormat
from afcore.activations.extending import find_extension
from afcore.activations.garbage import collect_garbage
from afcore.activations.layout import plan_layout
from afcore.activations.sets import ActivationSet, open_set
from afcore.activations.writer import ActivationWriter
from afcore.errors import IntegrityError
from afcore.runs.run import lease_folder
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from tests.storage.test_any_order import EXAMPLES, check_machine
from tests.training_setup import new_set

FORMAT = RowFormat("bf16", {"hidden_states": 2})
RUNS = ("r0", "r1")
DATA = st.sampled_from(
    [
        (1, 2, 3, 4, 5, 6),
        (1, 2, 3, 4, 5, 6, 7),
        (7, 6, 5, 4, 3, 2),
        (8, 1, 2, 3),
        (5,),
        (9, 10, 11, 1),
    ]
)
"""Data sets, some with most rows in common: examples by what they say, which decides their rows."""


def rows_of(example: int) -> npt.NDArray[Any]:
    """[1 to 4, 2], of no other example."""
    return np.arange(2 * (1 + example % 4), dtype=STORED_AS["bf16"]).reshape(-1, 2) + 100 * example


class AnySets(RuleBasedStateMachine):
    """Whatever is read is right, and what a live run noted itself for stays."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.storage = Storage(root)
        self.used: dict[str, set[tuple[int, ...]]] = {}
        self.live: dict[str, Lease] = {}
        self.begun: dict[tuple[int, ...], tuple[ActivationWriter, Lease]] = {}
        for run in RUNS:
            self.storage.put(f"runs/{run}/run.json", b'{"training_id": "t", "weights": {}}')

    @rule(data=DATA)
    def begin_to_build(self, data: tuple[int, ...]) -> None:
        """As far as the first shard; rows of another set are kept where it has most."""
        folder = folder_of(data)
        if data in self.begun or open_set(self.storage, folder) is not None:
            return
        lease = build_lease(self.storage, folder, "set").__enter__()
        delete_parts(self.storage, folder)
        lengths = np.asarray([len(rows_of(example)) for example in data], dtype=np.int64)
        recipe = {"weights": {}, "data": folder}
        found = find_extension(self.storage, folder, recipe, lengths, lambda: digests_of(data))
        new = new_set(folder, [2], folder, recipe)
        plan = found.plan if found is not None else None
        writer = ActivationWriter(self.storage, new, lengths, FORMAT, plan=plan)
        self.begun[data] = writer, lease
        for shard in missing(writer)[:1]:
            self._write(data, shard)

    def _write(self, data: tuple[int, ...], shard: int) -> None:
        writer = self.begun[data][0]
        ids = writer.layout.examples(shard)
        writer.write_shard(shard, np.concatenate([rows_of(data[i]) for i in ids]))

    @precondition(lambda self: self.begun)
    @rule(draw=st.data())
    def finish(self, draw: st.DataObject) -> None:
        data = draw.draw(st.sampled_from(sorted(self.begun)))
        for shard in missing(self.begun[data][0]):
            self._write(data, shard)
        writer, lease = self.begun.pop(data)
        writer.commit(digests_of(data))
        lease.__exit__(None, None, None)
        self._check(data)

    @precondition(lambda self: self.begun)
    @rule(draw=st.data())
    def give_up(self, draw: st.DataObject) -> None:
        """As a builder that was killed; what it wrote stays."""
        _, lease = self.begun.pop(draw.draw(st.sampled_from(sorted(self.begun))))
        lease.__exit__(None, None, None)

    @rule(run=st.sampled_from(RUNS), data=DATA)
    def use(self, run: str, data: tuple[int, ...]) -> None:
        found = open_set(self.storage, folder_of(data))
        if found is None:
            return
        if run not in self.live:
            self.live[run] = Lease(self.storage, lease_folder(run), run).__enter__()
        found.record_use(run, f"runs/{run}")
        self.used.setdefault(run, set()).add(data)

    @precondition(lambda self: self.live)
    @rule()
    def end_a_run(self) -> None:
        run, lease = self.live.popitem()
        lease.__exit__(None, None, None)
        self.used.pop(run, None)

    @rule(draw=st.data(), how=st.sampled_from(["cut", "flipped", "gone"]))
    def damage(self, draw: st.DataObject, how: str) -> None:
        """Any object of a shard or an index."""
        keys = [key for key in self.storage.list("activations") if key.endswith("/c/0/0")]
        if not keys:
            return
        key = draw.draw(st.sampled_from(keys))
        content = self.storage.get(key)
        self.storage.delete(key)
        if how != "gone" and content:
            changed = content[:-1] if how == "cut" else bytes([content[0] ^ 1]) + content[1:]
            self.storage.put(key, changed)

    @rule(days=st.sampled_from([0.0, 1000.0]), max_bytes=st.sampled_from([None, 0, 40]))
    def collect(self, days: float, max_bytes: int | None) -> None:
        before = {data for used in self.used.values() for data in used}
        collect_garbage(self.storage.root, max_idle_seconds=days * 86400, max_bytes=max_bytes)
        for data in before:
            assert open_set(self.storage, folder_of(data)) is not None, "a live run reads it"
            self._check(data)

    @rule(data=DATA)
    def read(self, data: tuple[int, ...]) -> None:
        if open_set(self.storage, folder_of(data)) is not None:
            self._check(data)

    def _check(self, data: tuple[int, ...]) -> None:
        """As a run reads it: what is damaged is computed again, and then it is whole."""
        found = open_set(self.storage, folder_of(data))
        assert found is not None
        try:
            layout = found.layout
        except IntegrityError:  # a run builds it again
            delete_parts(self.storage, found.folder)
            for used in self.used.values():
                used.discard(data)
            return
        for shard in range(len(found.manifest.shards)):
            ids = layout.examples(shard)
            expected = {int(i): rows_of(data[i]) for i in ids}
            rows = self._read_or_repair(found, shard, data)
            for example, right in expected.items():
                start = layout.start[example]
                assert np.array_equal(rows[start : start + len(right)], right)

    def _read_or_repair(
        self, found: ActivationSet, shard: int, data: tuple[int, ...]
    ) -> npt.NDArray[Any]:
        try:
            return found.read_shard(shard)
        except IntegrityError:
            layout = found.layout
            rows = np.zeros((layout.num_rows(shard), 2), dtype=STORED_AS["bf16"])
            for example in layout.examples(shard):
                right = rows_of(data[example])
                rows[layout.start[example] :][: len(right)] = right
            found.replace_shard(shard, rows)
            return found.read_shard(shard)

    def teardown(self) -> None:
        for lease in [*self.live.values(), *(lease for _, lease in self.begun.values())]:
            lease.__exit__(None, None, None)


def folder_of(data: tuple[int, ...]) -> str:
    return "activations/" + "-".join(map(str, data))


def digests_of(data: tuple[int, ...]) -> npt.NDArray[np.uint64]:
    return np.asarray([[example, 7] for example in data], dtype=np.uint64)


def missing(writer: ActivationWriter) -> list[int]:
    return [n for n in range(writer.layout.num_shards) if n not in writer.shards]


@EXAMPLES
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_sets_are_right_whatever_happens(
    kind: str, num_examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(lengths: Any, row_bytes: int) -> Any:
        return plan_layout(lengths, row_bytes=row_bytes, shard_bytes=16)

    monkeypatch.setattr(writer_module, "plan_layout", small)
    monkeypatch.setattr(extending, "plan_layout", small)
    monkeypatch.setattr(leftovers, "UNFINISHED_SECONDS", -1.0)  # leftovers go at once
    root = str(tmp_path) if kind == "file" else f"memory://{tmp_path.name}"
    check_machine(lambda: AnySets(f"{root}/{uuid.uuid4().hex}"), num_examples)
