"""One contract for every kind of store."""

import errno
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import s3fs
from botocore.exceptions import ClientError

from afcore.errors import AutoFreezeError, StorageFullError, StoreError, StoreUnreachableError
from afcore.storage.backends import s3_backend
from afcore.storage.explain import explain, raise_explained
from afcore.storage.objects import Storage
from tests.conftest import BUCKET, environment
from tests.faulty_proxy import faulty_proxy


def test_puts_gets_lists_and_deletes_whole_objects(storage: Storage) -> None:
    storage.put("a/one", b"1")
    storage.put("a/b/two", b"22")
    storage.put("a/one", b"111")
    assert storage.get("a/one") == b"111"
    assert storage.list("a") == {"a/b/two": 2, "a/one": 3}
    assert storage.list("nothing") == {}
    assert storage.exists("a/one")
    assert not storage.exists("a")
    assert (storage.size("a/one"), storage.size("a"), storage.size("a/two")) == (3, None, None)
    storage.delete("a/one")
    storage.delete("a/one")
    storage.delete_folder("nothing")
    with pytest.raises(KeyError):
        storage.get("a/one")
    storage.delete_folder("a")
    assert storage.list("a") == {}


@pytest.mark.parametrize(
    ("stored", "given"), [(b"12345", 5), (b"123", 3), (b"", 0), (b"1234567", 5)]
)
def test_an_object_is_read_into_memory_that_is_there(
    storage: Storage, stored: bytes, given: int
) -> None:
    out, pieces = bytearray(5), []
    storage.put("k", stored, lambda piece: pieces.append(bytes(piece)))
    assert b"".join(pieces) == stored
    reads, num_bytes = storage.usage.gets, storage.usage.bytes_read
    pieces.clear()
    count = storage.get_into("k", memoryview(out), lambda piece: pieces.append(bytes(piece)))
    assert count == given
    assert b"".join(pieces) == stored[:given]
    assert out[:given] == stored[:given]
    assert (storage.usage.gets - reads, storage.usage.bytes_read - num_bytes) == (1, given)
    with pytest.raises(KeyError):
        storage.get_into("nothing", memoryview(out))


def test_an_object_is_mapped_and_stays_when_it_is_replaced(storage: Storage) -> None:
    storage.put("k", b"some bytes")
    mapped = storage.mapped("k")
    storage.put("k", b"others, and more")
    storage.delete("k")
    assert bytes(mapped) == b"some bytes"
    storage.put("empty", b"")
    assert bytes(storage.mapped("empty")) == b""
    with pytest.raises(KeyError):
        storage.mapped("k")


def test_a_copy_for_which_there_is_no_space_names_the_disk_of_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"memory://{tmp_path.name}")
    storage.put("k", b"some bytes")

    def full(_path: str, copy: str) -> None:
        Path(copy).write_bytes(b"some")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage._backend.file_system, "get_file", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(StorageFullError, match=r"for temporary files: of .* point TMPDIR"):
        storage.mapped("k")
    assert list(tmp_path.iterdir()) == []


def test_among_writers_of_a_new_object_one_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda i: storage.put_new("k", str(i).encode()), range(8)))
    assert sum(wins) == 1
    assert storage.get("k") == str(wins.index(True)).encode()


@pytest.mark.s3
def test_a_server_need_not_say_which_condition_was_not_met(
    s3_endpoint: str, tmp_path: Path
) -> None:
    """As MinIO, SeaweedFS and others do not."""
    with (
        faulty_proxy(s3_endpoint, share=0.0, seed=0) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.url}),
    ):
        proxy.names_conditions = False
        storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}")
        storage.check()
        assert [storage.put_new("k", b"1"), storage.put_new("k", b"2")] == [True, False]
        assert storage.get("k") == b"1"


@pytest.mark.s3
def test_who_creates_at_the_same_moment_asks_again(s3_endpoint: str, tmp_path: Path) -> None:
    """S3 then answers some that it is not decided yet."""
    with (
        faulty_proxy(s3_endpoint, share=0.0, seed=0) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.url}),
    ):
        storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}")
        proxy.conflicts = 2
        assert storage.put_new("k", b"1")
        proxy.conflicts = 1
        assert not storage.put_new("k", b"2")
        assert (proxy.conflicts, storage.get("k")) == (0, b"1")


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_a_large_object_is_sent_in_parts_and_never_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_requests: Counter[str]
) -> None:
    """Tokens and pictures are mapped from a file that may be larger than memory."""
    monkeypatch.setattr(s3_backend, "_PART_BYTES", 5 * 2**20)
    storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}")
    content, given = os.urandom(2**20) * 11 + b"rest", list[object]()
    pipe_file = storage._backend.file_system.pipe_file

    def piping(path: str, data: object, **options: Any) -> None:
        given.append(data)
        pipe_file(path, data, **options)

    monkeypatch.setattr(storage._backend.file_system, "pipe_file", piping)
    storage.put("large", memoryview(content))
    assert not isinstance(given[0], bytes | memoryview)
    assert (s3_requests["upload_part"], s3_requests["put_object"]) == (3, 0)
    assert storage.get("large") == content
    assert storage.usage.bytes_written == len(content)
    storage.put("small", memoryview(content)[: 2**20])
    assert storage.get("small") == content[: 2**20]


def test_check_leaves_nothing_behind(storage: Storage) -> None:
    storage.check()
    assert storage.list("") == {}


def test_requests_and_bytes_are_counted(local_storage: Storage) -> None:
    local_storage.put("a", b"12345")
    local_storage.get("a")
    usage = local_storage.usage
    assert (usage.puts, usage.gets, usage.bytes_written, usage.bytes_read) == (1, 1, 5, 5)


def test_an_interrupted_write_is_not_seen(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_storage.put("a", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StorageFullError, match="no space left"):
        local_storage.put("a", b"new")
    assert local_storage.get("a") == b"old"
    assert local_storage.list("") == {"a": 3}


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("nonsense://x", "Protocol not known"),
        ("/proc/nowhere", "cannot write"),
        ("ftp://127.0.0.1:9/x", r"Use a folder, file://, s3:// or memory://"),
        ("s3://", r"store 's3://': no bucket is named\. Write s3://BUCKET/PREFIX"),
        ("s3:", "no bucket is named"),
        ("s3:///prefix", "no bucket is named"),
    ],
)
def test_a_store_that_cannot_be_used(root: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Storage(root).check()


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        Storage(str(tmp_path / "file" / "store")).check()
    with pytest.raises(StoreError, match=r"it is a file\. Use a folder"):
        Storage(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "Invalid endpoint: localhost:9000"),
        ("AWS_PROFILE", "nosuch", "nosuch"),
        ("AWS_DEFAULT_REGION", "not a region!", "not a region!"),
    ],
)
def test_settings_that_botocore_refuses_are_one_message(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=said) as caught:
        Storage("s3://bucket/prefix").check_there()
    assert "Check AWS_ENDPOINT_URL (http://HOST:PORT), AWS_PROFILE" in str(caught.value)


@pytest.mark.s3
def test_a_missing_bucket(s3_endpoint: str) -> None:
    with pytest.raises(StoreError, match="bucket"):
        Storage("s3://no-such-bucket/x").check()


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_an_endpoint_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage = Storage("s3://unreachable/x")
    with pytest.raises(StoreUnreachableError, match="cannot reach"):
        storage.check()
    with pytest.raises(StoreUnreachableError, match="cannot reach"):
        storage.exists("a")  # which is not a no


@pytest.mark.parametrize(
    ("code", "status", "kind", "message"),
    [
        ("ExpiredToken", 400, StoreError, "ExpiredToken.*Check the credentials"),
        ("AccessDenied", 403, StoreError, "not allowed.*Check the rights on the store"),
        ("XMinioStorageFull", 507, StorageFullError, "Its disk is full: free some"),
        ("SlowDown", 503, StoreUnreachableError, "SlowDown.*try again later"),
        ("TooManyRequests", 429, StoreUnreachableError, "TooManyRequests.*try again later"),
        ("OperationAborted", 409, StoreUnreachableError, "OperationAborted.*try again later"),
        ("InternalError", 500, StoreUnreachableError, "InternalError.*try again later"),
    ],
)
def test_an_answer_that_is_an_error_is_one_message(
    code: str, status: int, kind: type[AutoFreezeError], message: str
) -> None:
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = ClientError(answer, "GetObject")
    with pytest.raises(kind, match=message) as caught:
        raise_explained(error, "cannot read it")
    assert type(caught.value) is kind


def test_what_is_not_about_the_store_is_raised_as_it_is() -> None:
    error = ZeroDivisionError("x")
    with pytest.raises(ZeroDivisionError) as caught:
        raise_explained(error, "cannot read it")
    assert caught.value.__cause__ is None
    error.__cause__ = error
    assert explain(error, "cannot read it") is error


def test_drafts_are_listed_apart(storage: Storage) -> None:
    storage.put("a/b", b"whole")
    assert storage.drafts() == {}
    if storage.protocol == "file":
        Path(storage.root, "a/b.abc.draft").write_bytes(b"half")
        Path(storage.root, ".model.abc.draft").mkdir()  # of a model's folder that was not finished
        [(key, draft)] = storage.drafts().items()
        assert (key, draft.num_bytes) == ("a/b.abc.draft", 4)
        assert abs(draft.modified - time.time()) < 60
    assert list(storage.list("")) == ["a/b"]


@pytest.mark.parametrize("name", ["rmdir", "unlink"])
def test_a_folder_is_deleted_whole_whatever_others_do_to_it(
    name: str, local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One note more comes, or another process deletes too."""
    for number in range(5):
        local_storage.put(f"a/b/{number}", b"x")
    remove, raced = getattr(os, name), list[str]()

    def racing(path: Any, **options: Any) -> None:
        if not raced:
            raced.append(str(path))
            if name == "rmdir":
                local_storage.put("a/b/late", b"x")
            else:
                remove(path, **options)
        remove(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, racing)
        local_storage.delete_folder("a/b")
    assert raced
    assert not Path(local_storage.root, "a/b").exists()


def test_a_folder_that_comes_into_being_while_listed_is_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"memory://{tmp_path.name}")
    storage.put("folder/a", b"1")
    find = storage._backend.file_system.find

    def racing(path: str, **options: Any) -> dict[str, Any]:
        return {path: {"size": 0, "type": "directory"}, **find(path, **options)}

    monkeypatch.setattr(storage._backend.file_system, "find", racing)
    assert storage.list("folder") == {"folder/a": 1}


def test_a_listing_has_sizes_and_times(storage: Storage) -> None:
    storage.put("a/b", b"whole")
    [(key, stored)] = storage.listing("a").items()
    assert (key, stored.num_bytes) == ("a/b", 5)
    assert abs(stored.modified - time.time()) < 60


def test_a_store_in_which_two_can_create_one_object_is_refused(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.check()

    def put_anyway(key: str, data: bytes) -> bool:
        storage.put(key, data)
        return True

    monkeypatch.setattr(storage, "put_new", put_anyway)
    with pytest.raises(StoreError, match="If-None-Match"):
        storage.check()
    assert storage.list("") == {}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_folder_without_hard_links_is_refused(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_link(_draft: Path, _target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", no_link)
    with pytest.raises(StoreError, match=r"has no hard links .* another file system, or at S3"):
        local_storage.check()
    assert (local_storage.list(""), local_storage.drafts()) == ({}, {})


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_the_other_name_of_s3_is_the_same_store(tmp_path: Path) -> None:
    """What another process wrote after a listing is seen under both."""
    place = f"{BUCKET}/{tmp_path.name}-{time.time_ns()}"
    one, other = Storage(f"s3://{place}"), Storage(f"s3a://{place}")
    other.check()
    for key in ("a/1", "a/2"):
        one.put(key, b"1")
        assert key in other.list("a")
        assert other.get(key) == b"1"
    other.delete_folder("a")
    assert one.list("") == {}
