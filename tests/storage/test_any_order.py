"""Stores and leases under any order of operations, as Hypothesis finds them."""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from afcore import processes
from afcore.errors import LeaseHeldError, LeaseLostError
from afcore.storage import lease as lease_module
from afcore.storage.lease import Lease, is_held
from afcore.storage.objects import Storage

FOLDERS = ("", "a", "a/b", "c")
KEYS = st.builds(
    lambda folder, name: f"{folder}/{name}".lstrip("/"),
    st.sampled_from(FOLDERS),
    st.sampled_from(("one", "two.json")),
)
CONTENTS = st.binary(max_size=3)


def check_machine(make: Callable[[], RuleBasedStateMachine], num_examples: int) -> None:
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


EXAMPLES = pytest.mark.parametrize(
    "num_examples", [10, pytest.param(500, marks=pytest.mark.faults)]
)


class AnyStore(RuleBasedStateMachine):
    """A store is a dictionary; and what one process wrote, another one reads."""

    def __init__(self, root: str) -> None:
        super().__init__()
        self.storage, self.other = Storage(root), Storage(root)
        self.model: dict[str, bytes] = {}

    @rule(key=KEYS, data=CONTENTS)
    def put(self, key: str, data: bytes) -> None:
        pieces: list[bytes] = []
        self.storage.put(key, data, lambda piece: pieces.append(bytes(piece)))
        assert b"".join(pieces) == data
        self.model[key] = data

    @rule(key=KEYS, data=CONTENTS)
    def put_new(self, key: str, data: bytes) -> None:
        assert self.storage.put_new(key, data) == (key not in self.model)
        self.model.setdefault(key, data)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.other.exists(key) == (key in self.model)
        if key not in self.model:
            for read in (self.other.get, self.other.mapped):
                with pytest.raises(KeyError):
                    read(key)
            return
        data, out = self.model[key], bytearray(2)
        assert self.other.get(key) == bytes(self.other.mapped(key)) == data
        count = self.other.get_into(key, memoryview(out))
        assert out[:count] == data[:2]

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.storage.delete(key)
        self.model.pop(key, None)

    @rule(folder=st.sampled_from(FOLDERS[1:]))
    def delete_folder(self, folder: str) -> None:
        self.storage.delete_folder(folder)
        self.model = {k: v for k, v in self.model.items() if not k.startswith(f"{folder}/")}

    @rule(source=KEYS, copied=KEYS)
    def copy(self, source: str, copied: str) -> None:
        if source not in self.model:
            with pytest.raises(KeyError):
                self.storage.copy(source, copied)
            return
        self.storage.copy(source, copied)
        self.model[copied] = self.model[source]

    @rule(key=KEYS, data=CONTENTS)
    def keep_what_is_mapped(self, key: str, data: bytes) -> None:
        if key in self.model:
            mapped, before = self.other.mapped(key), self.model[key]
            self.put(key, data)
            assert bytes(mapped) == before

    @rule(folder=st.sampled_from(FOLDERS))
    def list(self, folder: str) -> None:
        start = f"{folder}/" if folder else ""
        expected = {k: len(v) for k, v in self.model.items() if k.startswith(start)}
        found = self.other.list(folder)
        assert found == expected
        assert [*found] == sorted(expected)

    @invariant()
    def nothing_half_written_is_left(self) -> None:
        assert self.storage.drafts() == {}


@EXAMPLES
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_store_is_a_dictionary(kind: str, num_examples: int, tmp_path: Path) -> None:
    root = str(tmp_path) if kind == "file" else f"memory://{tmp_path.name}"
    check_machine(lambda: AnyStore(f"{root}/{uuid.uuid4().hex}"), num_examples)


HOUR = 3600.0


class Clocks:
    """Time that passes when it is told to, on machines whose clocks differ and are set."""

    def __init__(self) -> None:
        self.here = 0
        self.passed = 1e6
        self.wrong = [0.0, 0.0, 0.0]
        self.beat: Callable[[], None] = lambda: None

    def time(self) -> float:
        return 1.7e9 + self.passed + self.wrong[self.here]

    def monotonic(self) -> float:
        return self.passed + 1e5 * self.here

    def sleep(self, seconds: float) -> None:
        """Whoever is at work elsewhere works meanwhile."""
        here, before = self.here, self.passed
        self.passed += seconds
        beats = lease_module.BEAT_SECONDS
        for _ in range(int(self.passed // beats) - int(before // beats)):
            self.beat()
        self.here = here


class AnyHolders(RuleBasedStateMachine):
    """Several machines want one lease: who is at work keeps it, and nobody has another's number."""

    def __init__(self, clocks: Clocks, logged: bool) -> None:
        super().__init__()
        self.clocks, self.logged = clocks, logged
        clocks.__init__()  # type: ignore[misc]
        clocks.beat = self._beat
        self.storage = Storage(f"memory://{uuid.uuid4().hex}")
        self.working: list[tuple[int, Lease]] = []
        self.hung: list[tuple[int, Lease]] = []

    def _beat(self) -> None:
        for machine, lease in self.working:
            self.clocks.here = machine
            lease._beat_once()  # nobody may have taken over

    def _lease(self) -> Lease:
        return Lease(self.storage, "lease", "run x", logged=self.logged)

    @rule(machine=st.integers(0, 2))
    def take(self, machine: int) -> None:
        self.clocks.here = machine
        lease = self._lease()
        try:
            lease.__enter__()
        except LeaseHeldError:
            if self.working or self.hung:
                return
            self.wait(2 * lease_module.EXPIRY_SECONDS + 1)
            lease.__enter__()  # nobody keeps it for the dead
        assert not self.working, "taken from who is at work"
        self.working.append((machine, lease))

    @rule(seconds=st.sampled_from([1.0, 7.0, 70.0]))
    def wait(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clocks.sleep(1.0)

    @rule(machine=st.integers(0, 2), wrong=st.sampled_from([0.0, HOUR, -HOUR, 72 * HOUR]))
    def set_clock(self, machine: int, wrong: float) -> None:
        self.clocks.wrong[machine] = wrong

    @precondition(lambda self: self.working)
    @rule()
    def hang(self) -> None:
        self.hung.append(self.working.pop())

    @precondition(lambda self: self.hung)
    @rule(data=st.data())
    def wake_up(self, data: st.DataObject) -> None:
        """After however long: it notices that it was succeeded, or goes on."""
        self.clocks.here, lease = self.hung.pop(data.draw(st.integers(0, len(self.hung) - 1)))
        try:
            lease._beat_once()
        except LeaseLostError:
            return
        assert not self.working, "two hold it"
        self.working.append((self.clocks.here, lease))

    @precondition(lambda self: self.working)
    @rule()
    def give_back(self) -> None:
        self.clocks.here, lease = self.working.pop()
        lease.__exit__(None, None, None)

    @precondition(lambda self: self.hung)
    @rule()
    def die(self) -> None:
        self.hung.pop()

    @invariant()
    def who_works_is_seen_by_everybody(self) -> None:
        assert len(self.working) <= 1
        for machine in range(3) if self.working else ():
            self.clocks.here = machine
            assert is_held(self.storage, "lease", watched=True)

    @invariant()
    def seconds_are_true(self) -> None:
        for machine, lease in self.working:
            self.clocks.here = machine
            assert 0 <= lease.seconds() <= self.clocks.passed


@EXAMPLES
@pytest.mark.parametrize("logged", [True, False])
def test_a_lease_has_one_holder(
    logged: bool, num_examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(lease_module, "time", clocks)
    monkeypatch.setattr(processes, "this_machine", lambda: f"machine {clocks.here}")
    monkeypatch.setattr(Lease, "_beat", lambda self: None)  # hearts beat as time passes
    check_machine(lambda: AnyHolders(clocks, logged), num_examples)
