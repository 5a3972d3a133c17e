"""Hub data sets, without the hub: what ``datasets`` itself finds in its cache."""

import re
import shutil
from pathlib import Path

import datasets
import pytest

from afcore.data.hub import HubName, load_hub_dataset, resolve_revision
from afcore.data.sources import load_rows
from afcore.errors import DataError
from afcore.storage.objects import Storage
from afcore.tasks.hub_revisions import pin_revisions
from afcore.tasks.text import TextTask

FIRST, SECOND = "1" * 40, "2" * 40
FIELDS = TextTask.fields({"text": "text", "label": "label"})


def keep_copy(cache: Path, revision: str, config: str, text: str) -> None:
    """A copy as ``datasets`` keeps one after a download, of the data set ``user/set``."""
    folder = cache.parent / "set"
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text(f"text,label\n{text},yes\n")
    builder = datasets.load_dataset_builder(str(folder), cache_dir=str(cache / "made"))
    builder.download_and_prepare()
    copy = cache / "user___set" / config / "0.0.0" / revision
    shutil.copytree(builder.cache_dir, copy)
    info = copy / "dataset_info.json"
    info.write_text(
        info.read_text().replace('"config_name": "default"', f'"config_name": "{config}"')
    )
    shutil.rmtree(cache / "made")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return cache


def test_a_copy_is_read_by_its_configuration_and_split(cache: Path) -> None:
    keep_copy(cache, FIRST, "mrpc", "one")
    keep_copy(cache, FIRST, "rte", "two")
    for config, text in (("mrpc", "one"), ("rte", "two")):
        rows = load_rows(f"user/set[{config}]@{FIRST}:train", "test", FIELDS)
        assert rows.inputs["text"] == [text]
    with pytest.raises(DataError, match="multiple 'user/set' configurations in the cache"):
        load_rows("user/set", "train", FIELDS)
    with pytest.raises(DataError, match=r"cannot load the data .*Unknown split"):
        load_rows("user/set[rte]:dev", "train", FIELDS)


def test_another_revision_than_the_one_here_is_refused(cache: Path) -> None:
    keep_copy(cache, FIRST, "default", "one")
    assert resolve_revision(HubName("user/set")) == FIRST
    assert len(load_hub_dataset(HubName("user/set", revision=FIRST), "train")) == 1
    for revision in (SECOND, "main"):
        with pytest.raises(DataError, match=f"the last copy here is of the revision {FIRST}"):
            load_rows(f"user/set@{revision}", "train", FIELDS)


def test_neither_hub_nor_copy_is_one_message(cache: Path, local_storage: Storage) -> None:
    cache.mkdir()
    with pytest.raises(DataError) as caught:
        pin_revisions(local_storage, {"train": "user/set[mrpc]:train"})
    message = str(caught.value)
    assert message.startswith("cannot load the data 'user/set[mrpc]:train': here is no such file,")
    assert "the hub cannot be reached" in message


def test_a_store_stays_with_the_revision_that_it_first_saw(
    cache: Path, local_storage: Storage, tmp_path: Path
) -> None:
    keep_copy(cache, FIRST, "default", "one")
    sources = {"train": "user/set", "validation": 0.1, "test": f"user/set@{SECOND}:test"}
    names, commits = pin_revisions(local_storage, sources)
    assert names["train"] == f"user/set@{FIRST}"
    assert commits == {"train": FIRST, "test": SECOND}
    keep_copy(cache, SECOND, "default", "two")
    assert pin_revisions(local_storage, sources) == (names, commits)
    _, elsewhere = pin_revisions(Storage(str(tmp_path / "other")), sources)
    assert elsewhere["train"] == SECOND


@pytest.mark.parametrize("torn", [b"", bytes(40), FIRST[:20].encode(), b"\xff"])
def test_a_torn_note_is_no_revision(
    torn: bytes, cache: Path, local_storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    """As a power cut leaves it; without a revision the hub's last one would be read."""
    keep_copy(cache, SECOND, "default", "one")
    local_storage.put("hub/user/set", torn)
    for _ in range(2):
        names, commits = pin_revisions(local_storage, {"train": "user/set"})
        assert (names, commits) == ({"train": f"user/set@{SECOND}"}, {"train": SECOND})
    assert caplog.text.count("hub/user/set is damaged; the commit is looked up anew") == 1


@pytest.mark.parametrize("source", ["../data", "a/../../../data", "../data[a]:train"])
def test_a_folder_that_is_not_there_is_nothing_of_the_store(
    source: str, cache: Path, local_storage: Storage
) -> None:
    cache.mkdir()
    local_storage.put("data/1/manifest.json", b"{}")
    with pytest.raises(DataError, match=f"cannot load the data {re.escape(repr(source))}: "):
        pin_revisions(local_storage, {"train": source})


def test_what_is_no_hub_data_set_has_no_revision(local_storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").touch()
    sources = ["docstrings:train", str(tmp_path / "rows.csv"), str(tmp_path), "s3://b/x*", "*.csv"]
    assert pin_revisions(local_storage, dict(enumerate(sources))) == ({}, {})  # type: ignore[arg-type]
