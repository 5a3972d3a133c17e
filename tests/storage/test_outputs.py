import json
from pathlib import Path

import pytest

from afcore.errors import ConfigError
from afcore.storage.outputs import check_file, check_folder, new_file, new_folder


def make(folder: Path, content: str, **files: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"autofreeze": {}, "x": content}))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = check_file(str(tmp_path / "new" / "a.csv"))
    with pytest.raises(KeyError), new_file(path) as draft:  # noqa: PT012
        draft.write_text("half")
        raise KeyError
    assert list(path.parent.iterdir()) == []
    with new_file(path) as draft:
        draft.write_text("whole")
        assert not path.exists()
    assert [entry.read_text() for entry in path.parent.iterdir()] == ["whole"]


def test_a_file_is_written_where_it_was_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for given, written in (("~/a.png", "a.png"), (str(tmp_path / "link"), "real")):
        assert check_file(given) == tmp_path / written
        with new_file(Path(given)) as draft:
            draft.write_text("whole")
        assert (tmp_path / written).read_text() == "whole"
    assert (tmp_path / "link").is_symlink()
    assert not Path("~").exists()


def test_a_folder_of_ours_is_replaced_whole(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "before")
    link = tmp_path / "link"
    link.symlink_to(folder)
    path = check_folder(str(link))
    with pytest.raises(KeyError), new_folder(path):
        raise KeyError
    assert json.loads((folder / "config.json").read_text())["x"] == "before"
    with new_folder(path) as draft:
        (draft / "config.json").write_text("{}")
        (draft / "README.md").write_text("card")
    assert sorted(entry.name for entry in link.iterdir()) == ["README.md", "config.json"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "model"]


def test_interrupted_at_any_moment_a_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename, renamed = make(tmp_path / "model", "before"), Path.rename, list[Path]()

    def interrupted(self: Path, target: Path) -> Path:
        renamed.append(self)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(check_folder(str(folder))) as draft:
        (draft / "config.json").write_text("{}")
    assert renamed[0] == folder
    assert json.loads((folder / "config.json").read_text())["x"] == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with new_folder(check_folder(str(tmp_path / "model"))) as draft:
        (draft / "config.json").write_text("{}")
    assert [entry.name for entry in (tmp_path / "model").iterdir()] == ["config.json"]


def test_what_others_put_there_is_not_deleted(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "before", **{"notes.txt": "mine"})
    with (
        pytest.raises(ConfigError, match=r"would delete notes\.txt"),
        new_folder(check_folder(str(folder))) as draft,
    ):
        (draft / "config.json").write_text("{}")
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "config.json").read_text())["x"] == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_model_of_another_kind_is_replaced_too(tmp_path: Path) -> None:
    """One with other files, as adapters and what a generator has."""
    names = ("vocab.txt", "generation_config.json", "model-00001-of-00002.safetensors")
    folder = make(tmp_path / "model", "before", **dict.fromkeys(names, ""))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "mine.txt").write_text("mine")
    with (
        pytest.raises(ConfigError, match=r"would delete adapter\. Move it away"),
        new_folder(check_folder(str(folder))) as draft,
    ):
        (draft / "config.json").write_text("{}")
    (folder / "adapter" / "mine.txt").unlink()
    with new_folder(check_folder(str(folder))) as draft:
        (draft / "config.json").write_text("{}")
    assert [entry.name for entry in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "holds files that are not of a model"),
        ("file", "is no folder"),
        ("s3://bucket/model", "is not a path of this machine"),
        ("/proc/none/model", "cannot be written"),
        ("/proc", "is a mount point"),
    ],
)
def test_folders_that_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=message):
        check_folder(name if "://" in name else str(tmp_path / name))
