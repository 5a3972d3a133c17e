"""What a record or a listing names lies below the store's root, or nothing is done."""

from collections.abc import Callable
from pathlib import Path

import pytest

from afcore.errors import IntegrityError
from afcore.runs.checkpoint import load_weights
from afcore.storage.objects import Storage
from tests.training_setup import make_split

OUTSIDE = ("../outside.txt", "runs/../../outside.txt", "/outside.txt", "..", "runs/..")
ACTIONS: dict[str, Callable[[Storage, str], object]] = {
    "put": lambda storage, key: storage.put(key, b"x"),
    "put_new": lambda storage, key: storage.put_new(key, b"x"),
    "get": lambda storage, key: storage.get(key),
    "list": lambda storage, key: storage.list(key),
    "delete": lambda storage, key: storage.delete(key),
    "delete_folder": lambda storage, key: storage.delete_folder(key),
    "exists": lambda storage, key: storage.exists(key),
}


@pytest.mark.parametrize("key", OUTSIDE)
@pytest.mark.parametrize("action", ACTIONS)
def test_keys_that_leave_the_root_are_refused(storage: Storage, action: str, key: str) -> None:
    with pytest.raises(IntegrityError, match="names something outside of the store"):
        ACTIONS[action](storage, key)


def test_names_with_dots_in_them_are_names(storage: Storage) -> None:
    storage.put("runs/a..b/..c", b"x")
    assert storage.get("runs/a..b/..c") == b"x"


def test_a_checkpoint_that_names_a_file_elsewhere_is_not_read(tmp_path: Path) -> None:
    """By a path with `..`, and by an absolute one."""
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"not for us")
    storage, split = Storage(str(tmp_path / "store")), make_split()
    for digest in ("../../../outside", str(tmp_path / "outside")):
        parts = dict.fromkeys(split.parts, digest)
        with pytest.raises(IntegrityError, match=r"outside of the store|is missing"):
            load_weights(storage, "runs/x/parts", split, parts)  # type: ignore[arg-type]
