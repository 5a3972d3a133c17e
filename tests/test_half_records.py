"""Records that a power cut left torn: made anew, or refused with one message; no other numbers."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afcore.activations.maintenance import verify_sets
from afcore.config import Config, parse_config
from afcore.errors import AutoFreezeError, StoppedError
from afcore.runs.whole_run import Onlooker, complete_run
from afcore.storage.objects import Storage
from tests.undisturbed import outcome

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "all but the last byte": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
}
REPLACED = {
    "run": "runs/*/run.json",
    "partial": "runs/*/*/epochs/002/partial.json",
    "lease": "runs/*/lease/000001.json",
    "set": "activations/*/manifest.json",
    "set's index": "activations/*/index-*/c/0/0",
    "set's user": "activations/*/users/*.json",
    "data": "data/*/manifest.json",
    "tokens": "data/*/train.safetensors",
}
"""Made anew, or done without."""
REFUSED = {
    "first plan": ("runs/*/*/epochs/000/next.json", "--fresh"),
    "started": ("runs/*/*/epochs/002/started.json", "--fresh"),
    "checkpoint": ("runs/*/*/epochs/001/checkpoint.json", "--fresh"),
    "report": ("runs/*/*/epochs/001/report.json", "--fresh"),
    "store": ("store.json", "delete that file"),
}
"""Where the wrong guess would be another training; and what to do."""
QUICK = {("run", "half"), ("set", "all but the last byte"), ("lease", "empty"), ("report", "half")}


ONE_QUICK = [
    pytest.param(name, marks=[] if name == "half" else [pytest.mark.faults]) for name in DAMAGE
]


class _PowerCutError(BaseException):
    """In the place of one."""


class _StoppedInEpoch2(Onlooker):
    def __init__(self) -> None:
        self._done = 0

    def epoch_done(self, *_: Any) -> None:
        self._done += 1

    def stepped(self) -> None:
        if self._done == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Filled once: the store of a run that was stopped within epoch 2, and what it ends with."""
    return {"folder": tmp_path_factory.mktemp("stores")}


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "static", "depth": 2}
    return parse_config(tiny_config, source="test")


@pytest.fixture
def stopped(config: Config, made: dict[str, Any], tmp_path: Path) -> Config:
    """Of a copy of the store, whose run was stopped."""
    store = made["folder"] / "stopped"
    if "expected" not in made:
        made["expected"] = outcome(*complete_run(config.replace(store=str(made["folder"] / "o"))))
        with pytest.raises(StoppedError):
            complete_run(config.replace(store=str(store)), onlooker=_StoppedInEpoch2())
    shutil.copytree(store, tmp_path / "copy")
    return config.replace(store=str(tmp_path / "copy"))


def cases(kinds: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(
            *(kind, damage),
            id=f"{kind}, {damage}",
            marks=[] if (kind, damage) in QUICK else [pytest.mark.faults],
        )
        for kind in kinds
        for damage in DAMAGE
    ]


def tear(config: Config, pattern: str, damage: str) -> Path:
    """One file of this kind; there is one."""
    (path,) = Path(config.store).glob(pattern)
    before = path.read_bytes()
    path.write_bytes(DAMAGE[damage](before))
    assert path.read_bytes() != before
    return path


def test_undamaged_it_goes_on(stopped: Config, made: dict[str, Any]) -> None:
    run, report = complete_run(stopped)
    assert outcome(run, report) == made["expected"]
    assert report.epochs[1].resumed


@pytest.mark.parametrize(("kind", "damage"), cases(REPLACED))
def test_what_can_be_made_anew_is(
    kind: str, damage: str, stopped: Config, made: dict[str, Any]
) -> None:
    tear(stopped, REPLACED[kind], damage)
    run, report = complete_run(stopped)
    assert outcome(run, report) == made["expected"]
    assert verify_sets(stopped.store) == (1, [])


@pytest.mark.parametrize(("kind", "damage"), cases(REFUSED))
def test_what_cannot_is_named_with_what_to_do(
    kind: str, damage: str, stopped: Config, made: dict[str, Any]
) -> None:
    pattern, what_to_do = REFUSED[kind]
    path = tear(stopped, pattern, damage)
    with pytest.raises(AutoFreezeError) as raised:
        complete_run(stopped)
    assert str(path.relative_to(stopped.store)) in str(raised.value)
    assert "is damaged" in str(raised.value)
    assert what_to_do in str(raised.value)
    if what_to_do == "delete that file":
        path.unlink()
    run, report = complete_run(stopped, fresh=what_to_do == "--fresh")
    assert outcome(run, report) == made["expected"]


@pytest.mark.parametrize("damage", ONE_QUICK)
def test_torn_parts_of_an_epoch_that_was_stopped_cost_its_steps_alone(
    damage: str, stopped: Config, made: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (partial,) = Path(stopped.store).glob("runs/*/*/epochs/002/partial.json")
    named, before = (
        set(json.loads(path.read_text())["parts"].values())
        for path in (partial, partial.parents[1] / "001" / "checkpoint.json")
    )
    assert named - before
    for digest in named - before:
        path = partial.parents[2] / "parts" / f"{digest}.safetensors"
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    run, report = complete_run(stopped)
    assert outcome(run, report) == made["expected"]
    (told,) = [line for line in caplog.messages if "epoch 2 begins anew: " in line]
    assert "is damaged" in told
    assert "--fresh" not in told


@pytest.mark.parametrize("damage", ONE_QUICK)
def test_torn_parts_that_no_record_names_yet_are_written_again(
    damage: str,
    stopped: Config,
    made: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut between the parts of a checkpoint and its record: trained again, they are the same."""
    cut, put = stopped.replace(store=str(tmp_path / "cut")), Storage.put

    def cutting(storage: Storage, key: str, *args: Any, **kwargs: Any) -> None:
        if key.endswith("001/checkpoint.json"):
            raise _PowerCutError
        put(storage, key, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "put", cutting)
        with pytest.raises(_PowerCutError):
            complete_run(cut)
    parts = list(Path(cut.store).glob("runs/*/*/parts/*.safetensors"))
    assert parts
    for part in parts:
        part.write_bytes(DAMAGE[damage](part.read_bytes()))
    assert outcome(*complete_run(cut)) == made["expected"]


@pytest.mark.parametrize("damage", ONE_QUICK)
def test_a_torn_result_is_published_anew(
    damage: str, stopped: Config, made: dict[str, Any]
) -> None:
    complete_run(stopped)
    tear(stopped, "runs/*/*/result.json", damage)
    run, report = complete_run(stopped)
    assert outcome(run, report) == made["expected"]
    assert [epoch.attempt for epoch in report.epochs] == [1, 2], "nothing was trained anew"


@pytest.mark.faults
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_torn_profile_is_measured_anew(damage: str, config: Config, tmp_path: Path) -> None:
    measured = config.replace(**{"cache.mode": "auto", "store": str(tmp_path / "measured")})
    with pytest.raises(StoppedError):
        complete_run(measured, onlooker=_StoppedInEpoch2())
    path = tear(measured, "runs/*/*/profile.json", damage)
    torn = path.read_bytes()
    _, report = complete_run(measured)
    assert path.read_bytes() != torn
    _, whole = complete_run(measured.replace(store=str(tmp_path / "whole")))
    assert report.totals.test == whole.totals.test
