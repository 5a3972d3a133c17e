"""A store that takes no writes any more, or is full, in mid-run: one message, and no other numbers.

The disk is a real one, and S3 a server behind a proxy that forbids; only the moment is arranged.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from afcore.activations.maintenance import verify_sets
from afcore.activations.sets import list_sets
from afcore.config import Config, parse_config
from afcore.errors import AutoFreezeError, StorageFullError, StoreRefusedError
from afcore.runs.whole_run import complete_run
from afcore.storage.objects import Storage
from tests.conftest import BUCKET, environment
from tests.faulty_proxy import faulty_proxy
from tests.small_disk import SmallDisk, small_disk
from tests.undisturbed import outcome

GOES_ON = "the same command goes on from there"


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    """A set is built and read in the first epoch."""
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "frozen_start", "depth": 2}
    return parse_config(tiny_config, source="test")


@pytest.fixture
def expected(config: Config, undisturbed: dict[str, Any]) -> Any:
    if not undisturbed:
        undisturbed["run"] = outcome(*complete_run(config))
    return undisturbed["run"]


@contextmanager
def happening_at(
    monkeypatch: pytest.MonkeyPatch, key_pattern: str, happen: Callable[[], None]
) -> Iterator[None]:
    """Once, before the first write to an object whose key is such a one."""
    put, left = Storage.put, [happen]

    def happening(storage: Storage, key: str, *args: Any, **kwargs: Any) -> None:
        if left and re.search(key_pattern, key):
            left.pop()()
        put(storage, key, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "put", happening)
        yield
    assert not left, f"nothing was written to {key_pattern}"


def check_stopped_and_gone_on(
    config: Config, kind: type[AutoFreezeError], mend: Callable[[], None], expected: Any
) -> str:
    """One error of this kind; what is there is whole; mended, the run ends as if nothing was."""
    with pytest.raises(AutoFreezeError) as raised:
        complete_run(config)
    assert type(raised.value) is kind, raised.value
    assert raised.value.exit_code == 1
    text = str(raised.value)
    assert GOES_ON in text
    storage = Storage(config.store)
    assert [problem for found in list_sets(storage) for problem in found.verify()] == []
    mend()
    assert storage.drafts() == {}, "nothing half-written is left"
    assert outcome(*complete_run(config)) == expected
    assert len(list_sets(storage)) == 1
    assert verify_sets(config.store) == (1, [])
    return text


MOMENTS = {
    "in the tokens": r"data/\w+/train\.safetensors",
    "in a set": r"activations/.+/c/0/0",
    "in a checkpoint": r"/parts/\w+\.safetensors",
    "at an epoch's commit": r"001/checkpoint\.json",
    "at the next epoch's start": r"002/started\.json",
    "at the run's end": r"result\.json",
}


def moments(*quick: str) -> list[Any]:
    """Those that are tried by default, and the others."""
    return [
        pytest.param(pattern, id=name, marks=[] if name in quick else [pytest.mark.faults])
        for name, pattern in MOMENTS.items()
    ]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=16) as mounted:
        yield mounted


@pytest.mark.parametrize("moment", moments("at an epoch's commit"))
def test_a_disk_that_becomes_read_only(
    moment: str, config: Config, expected: Any, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(store=str(disk.path / "store"))
    with happening_at(monkeypatch, moment, lambda: disk.set_read_only(True)):
        text = check_stopped_and_gone_on(
            config, StoreRefusedError, lambda: disk.set_read_only(False), expected
        )
    assert re.search(moment, text), "the first that failed"
    assert "Read-only file system" in text
    assert "lease" not in text


@pytest.mark.s3
@pytest.mark.parametrize("moment", moments())
def test_a_bucket_that_becomes_read_only(
    moment: str,
    config: Config,
    expected: Any,
    s3_endpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config.replace(store=f"s3://{BUCKET}/{tmp_path.name}")

    def forbid(forbidden: bool = True) -> None:
        proxy.read_only = forbidden

    with (
        faulty_proxy(s3_endpoint, share=0.0, seed=0) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.url}),
        happening_at(monkeypatch, moment, forbid),
    ):
        text = check_stopped_and_gone_on(config, StoreRefusedError, lambda: forbid(False), expected)
    assert re.search(moment, text)
    assert "not allowed" in text
    assert "Check the rights on the store" in text


@pytest.mark.parametrize("moment", moments("in a set", "in a checkpoint"))
def test_a_disk_that_is_full(
    moment: str, config: Config, expected: Any, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(store=str(disk.path / "store"))
    with happening_at(monkeypatch, moment, disk.fill):
        text = check_stopped_and_gone_on(config, StorageFullError, disk.make_room, expected)
    assert "no space left: of 16.8 MB on the disk at" in text
    assert str(disk.path) in text
    assert "0.0 are free" in text
