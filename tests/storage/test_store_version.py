"""A store of a later version is left alone; one of before is read."""

import pytest

from afcore.activations.garbage import collect_garbage
from afcore.errors import StoreError
from afcore.storage.objects import Storage
from afcore.storage.store_version import check_store_version, mark_store_version


def test_a_store_is_marked_once_and_an_older_one_is_read(storage: Storage) -> None:
    storage.put("runs/a/record.json", b"{}")
    check_store_version(storage)  # of before there were marks
    mark_store_version(storage)
    assert storage.get("store.json") == b'{"schema": 1}'
    mark_store_version(storage)
    check_store_version(storage)


def test_a_store_of_a_later_version_is_left_alone(local_storage: Storage) -> None:
    local_storage.put("store.json", b'{"schema": 2, "of": "the future"}')
    local_storage.put("activations/x/rows", b"1")
    message = r"has the layout 2, of a later .* knows up to 1, .* Upgrade"
    for use in (mark_store_version, check_store_version):
        with pytest.raises(StoreError, match=message):
            use(local_storage)
    with pytest.raises(StoreError, match=message):
        collect_garbage(local_storage.root, max_idle_seconds=0.0)
    assert local_storage.get("activations/x/rows") == b"1"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": "x"}'])
def test_a_damaged_mark_is_not_guessed(local_storage: Storage, content: bytes) -> None:
    local_storage.put("store.json", content)
    with pytest.raises(StoreError, match=r"store.json is damaged, .* delete that file"):
        check_store_version(local_storage)
