import json
from pathlib import Path

import pytest

from afcore.config import Config, load_config, parse_config
from afcore.errors import ConfigError
from afcore.freezing.frozen_start import FrozenStart
from afcore.freezing.guarded import Guarded
from afcore.freezing.linear import Linear
from afcore.freezing.policy import FreezePolicy
from afcore.freezing.static import Static
from pipelines.cli.compare_command import wants_to_share

MINIMAL = {"model": {"name": "m"}, "data": {"train": "t.csv"}}


def parse(**changes: object) -> Config:
    return parse_config(MINIMAL, source="test").replace(**changes)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainng.epochs", 1, "unknown key 'trainng'; did you mean 'training'?"),
        ("training.epoch", 1, "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
        ("training.strategy", 1, "unknown key 'training.strategy'"),
        ("epochs", 1, "unknown key 'epochs'; did you mean 'training.epochs'?"),
        (
            "freezing.percentil",
            1,
            "unknown key 'freezing.percentil'; did you mean 'freezing.percentile'? It is for "
            "freezing.policy 'gradient_norm'; 'frozen_start' has policy, intervals_per_epoch, "
            "tolerance, depth",
        ),
        (
            "freezing.t_0",
            1,
            "unknown key 'freezing.t_0'; it is for freezing.policy 'annealed'; "
            "'frozen_start' has policy, intervals_per_epoch, tolerance, depth",
        ),
        (
            "freezing.patienc",
            1,
            "unknown key 'freezing.patienc'; did you mean 'freezing.patience'?",
        ),
        ("freezing.epochs", 1, "unknown key 'freezing.epochs'; did you mean 'training.epochs'?"),
        (
            "freezing.zzz",
            1,
            "known here: freezing.policy, freezing.intervals_per_epoch, freezing.tolerance",
        ),
        ("freezing.tolerance", -1, "freezing.tolerance: got -1; input should be greater than or"),
        ("freezing.policy", "magic", "freezing.policy: got 'magic'; input should be 'frozen"),
        ("freezing.policy", None, "freezing.policy: got None; input should be 'frozen_start', 'g"),
        ("freezing", 3, "freezing: got 3"),
        ("training.epochs", 0, "training.epochs: got 0; input should be greater than 0"),
        ("training.learning_rate", "fast", "training.learning_rate: got 'fast'"),
        ("training.learning_rate", float("nan"), "training.learning_rate: got nan"),
        ("training.learning_rate", float("inf"), "got inf; input should be a finite number"),
        ("training.steps", [[0.0, float("inf")]], "got inf; input should be a finite number"),
        ("freezing.tolerance", float("inf"), "freezing.tolerance: got inf; input should be a fini"),
        ("search.max_usd", float("inf"), "search.max_usd: got inf; input should be a finite"),
        ("data.validation", 1.5, "data.validation: got 1.5"),
        ("mode", "fast", "mode: got 'fast'; input should be 'full', 'freeze', 'cached'"),
        ("training.steps", [[0.5, 1.0]], "shares of the steps must start at 0.0"),
        ("training", 3, "training: got 3"),
        ("data.encoding", "utf-9", "data.encoding: got 'utf-9'; no encoding of text has this name"),
        ("data.encoding", "base64", "no encoding of text has this name"),
        ("data.train", [], "replace: data.train: got []; a list of files must name one or more"),
        (
            "data.train",
            3,
            "replace: data.train: got 3; input should be a valid string, or input should be a "
            "valid list",
        ),
        ("data.train", "~nobody-here/t.csv", "'~nobody-here' is nobody's home on this machine"),
        ("store", "~nobody-here/store", "'~nobody-here' is nobody's home on this machine"),
    ],
)
def test_says_what_is_wrong_and_what_is_allowed(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**{key: value})
    assert message in str(caught.value)
    assert str(caught.value).count(f"{key}: got") <= 1


def test_a_group_needs_rows_to_be_held_out() -> None:
    assert parse(**{"data.group": "author"}).data.group == "author"
    with pytest.raises(ConfigError, match="data: group 'author' decides which rows are held out"):
        parse(**{"data.group": "author", "data.validation": "other.csv"})


@pytest.mark.parametrize(
    ("freezing", "kind"), [(None, FrozenStart), ({}, FrozenStart), ({"policy": "static"}, Static)]
)
def test_a_section_is_its_policy(
    freezing: dict[str, object] | None, kind: type[FreezePolicy]
) -> None:
    tree = MINIMAL if freezing is None else {**MINIMAL, "freezing": freezing}
    config = parse_config(tree, source="test")
    assert type(config.freezing) is kind
    assert Config.model_validate_json(config.model_dump_json()) == config


GIVEN = {"policy": "guarded", "patience": 3, "intervals_per_epoch": 7}


@pytest.mark.parametrize(
    ("freezing", "changes", "expected"),
    [
        (GIVEN, {"policy": "static"}, Static(intervals_per_epoch=7)),
        (GIVEN, {"policy": "static", "depth": 2}, Static(intervals_per_epoch=7, depth=2)),
        (GIVEN, {"depth": 2, "policy": "static"}, Static(intervals_per_epoch=7, depth=2)),
        (GIVEN, {"policy": "guarded"}, Guarded(intervals_per_epoch=7, patience=3)),
        ({"policy": "static", "depth": 2}, {"policy": "linear"}, Linear(depth=2)),
        ({}, {"policy": "static"}, Static()),
    ],
)
def test_another_policy_leaves_behind_what_it_does_not_have(
    tmp_path: Path,
    freezing: dict[str, object],
    changes: dict[str, object],
    expected: FreezePolicy,
) -> None:
    dotted = {f"freezing.{key}": value for key, value in changes.items()}
    tree = {**MINIMAL, "freezing": freezing}
    assert parse_config(tree, source="test").replace(**dotted).freezing == expected
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(tree))
    overrides = [f"{key}={value}" for key, value in dotted.items()]
    assert load_config(str(path), overrides).freezing == expected


@pytest.mark.parametrize(
    ("freezing", "changes", "message"),
    [
        # Given with the policy, it is not left behind but wrong.
        (
            GIVEN,
            {"policy": "static", "patience": 3},
            "unknown key 'freezing.patience'; it is for freezing.policy 'guarded'; 'static' has "
            "policy, intervals_per_epoch, depth",
        ),
        ({"patients": 3}, {"policy": "static"}, "unknown key 'freezing.patients'"),
        (GIVEN, {"policy": "magic"}, "freezing.policy: got 'magic'"),
        (GIVEN, {"policy": "gradient_norm", "percentile": 101}, "freezing.percentile: got 101;"),
    ],
)
def test_what_another_policy_does_not_excuse(
    tmp_path: Path, freezing: dict[str, object], changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**MINIMAL, "freezing": freezing}))
    overrides = [f"freezing.{key}={value}" for key, value in changes.items()]
    with pytest.raises(ConfigError) as caught:
        load_config(str(path), overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["store", "tracking.uri", "data.train", "data.validation"])
def test_a_password_in_a_uri_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError, match="through the environment") as caught:
        parse(**{key: "https://user:hunter2@host/x.csv"})
    assert "hunter2" not in str(caught.value)


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"missing key 'data.train'"):
        parse_config({"model": {"name": "m"}, "data": {}}, source="test")


@pytest.mark.parametrize(("text", "mode"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_a_bare_yaml_on_is_the_word_on(tmp_path: Path, text: str, mode: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {{name: m}}\ndata: {{train: t.csv}}\ncache: {{mode: {text}}}\n")
    assert load_config(str(path)).cache.mode == mode
    assert load_config(str(path), [f"cache.mode={text}"]).cache.mode == mode


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: m}\ndata: {train: t.csv}\n")
    overrides = ["training.learning_rate=1e-4", "data.limit=null", "training.steps=[[0, 1]]"]
    config = load_config(str(path), [*overrides, "data.validation=5e-2"])
    assert config.data.validation == 0.05
    assert config.training.learning_rate == 1e-4
    assert config.data.limit is None
    assert config.training.steps == [(0.0, 1.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "must hold a mapping"),
        ("a: [", "is not YAML"),
        ("a: 2026-02-30", "is not YAML: day is out of range"),
        ("", "must hold a mapping"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(str(path))


def test_a_key_that_stands_twice_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    rest = "model: {name: m}\ndata: {train: t.csv}\n"
    for content, key, lines in (
        (f"training: {{epochs: 2}}\n{rest}training: {{batch_size: 8}}\n", "training", (1, 4)),
        (f"{rest}training:\n  epochs: 2\n  epochs: 3\n", "epochs", (4, 5)),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load_config(str(path))
        said = f"the key {key!r} stands in line {lines[0]}, and in line {lines[1]} again. Put both"
        assert str(caught.value).startswith(f"{path}: {said}")


def test_keys_may_be_merged(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "model: {name: m}\n"
        "data: {train: t.csv}\n"
        "training: {<<: [{epochs: 1}, {epochs: 2, batch_size: 4}], batch_size: 8}\n"
    )
    config = load_config(str(path))
    assert (config.training.epochs, config.training.batch_size) == (1, 8)


@pytest.mark.parametrize("override", ["training.epochs", "mode.x=1", "a=[1", "a=2026-13-01"])
def test_a_malformed_override(tmp_path: Path, override: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("mode: full\nmodel: {name: m}\ndata: {train: t.csv}\n")
    with pytest.raises(ConfigError):
        load_config(str(path), [override])


def test_relative_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse(store="here", **{"tracking.uri": "sqlite:///ml.db"})
    assert config.store == str(tmp_path / "here")
    assert config.tracking.uri == f"sqlite:///{tmp_path}/ml.db"
    assert parse(store="s3://b/p").store == "s3://b/p"


@pytest.mark.parametrize("key", ["store", "data.train", "data.test", "data.validation"])
def test_a_path_may_begin_at_home(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    section, _, leaf = key.rpartition(".")
    tree = parse(**{key: "~/mine/x.csv"}).model_dump()
    assert (tree[section] if section else tree)[leaf] == f"{tmp_path}/mine/x.csv"
    assert parse(**{"data.train": "user/set"}).data.train == "user/set"


@pytest.mark.parametrize(
    ("settings", "shares"),
    [([], False), (["cache.share=true"], True), (["cache.share=false"], False)],
)
def test_compare_shares_sets_only_when_told_to(
    tmp_path: Path, settings: list[str], shares: bool
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: m}\ndata: {train: docstrings}\n")
    assert wants_to_share(load_config(str(path), settings)) is shares
