"""Objects are listed page by page and deleted by the thousand, and a refusal is said."""

import json
import time
from collections import Counter
from pathlib import Path

import boto3
import pytest

from afcore.errors import StoreError
from afcore.storage.backends import s3_backend
from afcore.storage.objects import Storage
from tests.conftest import BUCKET

KEYS = ("f-b/x", "f/b", "f/b-a", "f/b.c", "f/b/a", "f/b/a/z", "f0")


def test_keys_come_sorted_whatever_the_store(storage: Storage) -> None:
    keys = [key for key in KEYS if key not in ("f/b", "f/b/a") or storage.protocol == "s3"]
    for key in reversed(keys):
        storage.put(key, b"1")
    assert [key for key, _ in storage.walk("")] == sorted(keys)
    assert [key for key, _ in storage.walk("f")] == [k for k in sorted(keys) if k[:2] == "f/"]
    assert storage.folders("") == ("f", "f-b")
    assert storage.folders("f") == ("b",)
    assert storage.folders("nothing") == ()


def test_many_are_deleted_and_nothing_is_left(storage: Storage) -> None:
    for key in ("a/b/c", "a/b/d", "a/e"):
        storage.put(key, b"1")
    storage.delete_all(["a/b/c", "a/b/d", "a/nothing"])
    assert list(storage.list("")) == ["a/e"]
    if storage.protocol == "file":
        assert not Path(storage.root, "a/b").exists(), "an empty folder"
    storage.put("a/b/c", b"1")
    storage.delete_folder("a")
    assert storage.list("") == {}
    storage.delete_all([])


@pytest.fixture
def remote(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A store on S3 of 60 objects in 3 folders, of which a page has 10."""
    monkeypatch.setattr(s3_backend, "_PAGE_KEYS", 10)
    storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}")
    client, prefix = boto3.client("s3"), storage.root.removeprefix(f"s3://{BUCKET}/")
    for number in range(60):
        key = f"{prefix}/{number % 3}/object-{number:03d}"
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x" * number)
    return storage


@pytest.mark.s3
def test_requests_are_for_pages_and_a_page_is_asked_for_when_it_is_due(
    remote: Storage, s3_requests: Counter[str]
) -> None:
    found = remote.walk("")
    first = [next(found) for _ in range(10)]
    assert s3_requests == {"list_objects_v2": 1}
    assert [key for key, _ in first] == [f"0/object-{number:03d}" for number in range(0, 30, 3)]
    assert [stored.num_bytes for _, stored in first] == list(range(0, 30, 3))
    assert len(list(found)) == 50
    assert s3_requests == {"list_objects_v2": 6}
    s3_requests.clear()
    assert remote.folders("") == ("0", "1", "2")
    assert s3_requests == {"list_objects_v2": 1}
    s3_requests.clear()
    remote.delete_folder("1")
    assert s3_requests == {"list_objects_v2": 2, "delete_objects": 2}
    assert remote.folders("") == ("0", "2")


@pytest.mark.s3
def test_a_deletion_that_is_refused_for_some_objects_is_said(s3_endpoint: str) -> None:
    """The server answers such a request with success, and a list of what it left alone."""
    bucket = "autofreeze-refuses"
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    rule = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{bucket}/store/locked/*",
    }
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": [rule]}))
    storage = Storage(f"s3://{bucket}/store")
    for key in ("free/a", "locked/a", "locked/b"):
        storage.put(key, b"1")
    message = r"cannot delete .*: not allowed .*store/locked/a, and 1 more.* Check the rights"
    for delete in (lambda: storage.delete_all(storage.list("")), lambda: storage.delete_folder("")):
        with pytest.raises(StoreError, match=message):
            delete()
    assert list(storage.list("")) == ["locked/a", "locked/b"]
