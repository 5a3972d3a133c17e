"""What a user meets: help, exit codes, and one clear message for each kind of mistake."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
import typer

from afcore.launch import launcher as launchers
from afcore.storage.objects import Storage
from pipelines.cli import run_flow
from tests.conftest import write_config
from tests.e2e.command import autofreeze, expect_one_message, nothing_believable
from tests.model.test_pretrained import configure, set_weight

pytestmark = pytest.mark.slow


LABELS = ("argparse", "random", "statistics")


COMMANDS = ("", "run", "predict", "compare", "plan", "show", "cache", "cache gc")
# One process for all, as most of a help's time is the start.
HELP = """
import contextlib, io, json, sys
from pipelines.cli import main
said = {}
for command in json.loads(sys.argv[1]):
    sys.argv = ["autofreeze", *command.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as end:
            said[command] = (end.code, out.getvalue())
print(json.dumps([said, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def helped() -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Exit code and help of each command; and what was imported for them."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, json.dumps(COMMANDS)],
        capture_output=True,
        text=True,
        check=True,
    )
    said, modules = json.loads(done.stdout)
    return said, modules


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_says_what_there_is(
    command: str, helped: tuple[dict[str, tuple[int, str]], list[str]]
) -> None:
    said, modules = helped
    code, text = said[command]
    assert code == 0
    assert "Usage: " in text
    assert "typer" in modules
    assert "torch" not in modules
    for option in {"run": ["--set", "--report", "--output"], "compare": ["--seeds", "--share"]}.get(
        command, []
    ):
        assert option in text


@pytest.mark.usefixtures("prefect_server")
def test_run_prints_a_table_and_writes_the_report(
    tiny_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config)
    report = tmp_path / "out" / "report.json"
    options = ["--set", "training.epochs=1", "--report", report]
    assert autofreeze("run", config, *options) == 0
    out = capsys.readouterr().out
    assert "cached" in out
    assert f"mlflow ui --backend-store-uri {tiny_config['tracking']['uri']}" in out
    assert json.loads(report.read_text())["totals"]["best_epoch"] == 1
    assert autofreeze("run", config, *options) == 0
    assert "finished before" in " ".join(capsys.readouterr().out.split())
    assert autofreeze("cache", "ls", "--store", tiny_config["store"]) == 0
    assert autofreeze("cache", "verify", "--store", tiny_config["store"]) == 0


def _no_weights(tree: dict[str, Any], folder: Path) -> None:
    copy = folder / "model"
    shutil.copytree(tree["model"]["name"], copy)
    (copy / "model.safetensors").unlink()
    tree["model"]["name"] = str(copy)


def _no_blocks(tree: dict[str, Any], folder: Path) -> None:
    config = transformers.AlbertConfig(
        vocab_size=400,
        embedding_size=16,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    copy = folder / "albert"
    transformers.AutoTokenizer.from_pretrained(tree["model"]["name"]).save_pretrained(copy)
    transformers.AlbertModel(config).save_pretrained(copy)
    tree["model"]["name"] = str(copy)


def _cut_weights(tree: dict[str, Any], folder: Path) -> None:
    copy = shutil.copytree(tree["model"]["name"], folder / "cut")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    tree["model"]["name"] = str(copy)


def _configured(**changes: Any) -> Callable[[dict[str, Any], Path], None]:
    def change(tree: dict[str, Any], folder: Path) -> None:
        configure(shutil.copytree(tree["model"]["name"], folder / "model"), **changes)
        tree["model"]["name"] = str(folder / "model")

    return change


def _no_tokenizer(tree: dict[str, Any], folder: Path) -> None:
    copy = shutil.copytree(tree["model"]["name"], folder / "model")
    for file in copy.glob("*token*"):
        file.unlink()
    tree["model"]["name"] = str(copy)


def _cut_tokenizer(tree: dict[str, Any], folder: Path) -> None:
    copy = shutil.copytree(tree["model"]["name"], folder / "model")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text()[:500])
    tree["model"]["name"] = str(copy)


def _nan(tree: dict[str, Any], folder: Path) -> None:
    copy = shutil.copytree(tree["model"]["name"], folder / "model")
    set_weight(copy, "encoder.layer.1.output.dense.bias", float("nan"))
    tree["model"]["name"] = str(copy)


def _csv(key: str, content: str) -> Callable[[dict[str, Any], Path], None]:
    def change(tree: dict[str, Any], folder: Path) -> None:
        (folder / "data.csv").write_text(content)
        tree["data"][key] = str(folder / "data.csv")

    return change


def _file(key: str, name: str, content: str | bytes) -> Callable[[dict[str, Any], Path], None]:
    def change(tree: dict[str, Any], folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
        tree["data"][key] = str(folder / name)

    return change


def _set(section: str, key: str, value: object) -> Callable[[dict[str, Any], Path], None]:
    return lambda tree, _: tree[section].update({key: value})


def _static_depth(depth: int) -> Callable[[dict[str, Any], Path], None]:
    return lambda tree, _: tree.update({"freezing": {"policy": "static", "depth": depth}})


def _store(uri: str) -> Callable[[dict[str, Any], Path], None]:
    return lambda tree, _: tree.update({"store": uri})


def _unwritable_store(tree: dict[str, Any], folder: Path) -> None:
    (folder / "file").write_text("in the way")
    tree["store"] = str(folder / "file" / "store")


def _workers(batch_size: int = 8, **workers: Any) -> Callable[[dict[str, Any], Path], None]:
    def change(tree: dict[str, Any], _folder: Path) -> None:
        tree["workers"] = workers
        tree["training"]["batch_size"] = batch_size

    return change


def _workers_and_no_data(tree: dict[str, Any], _folder: Path) -> None:
    """Found when the launcher is open."""
    tree["workers"] = {"max": 2}
    tree["data"]["train"] = "nowhere.csv"


def _unknown_gpu(tree: dict[str, Any], _folder: Path) -> None:
    tree["prices"] = {"gpu": "aws/z80"}


def _memory_store(tree: dict[str, Any], _folder: Path) -> None:
    tree |= {"store": "memory://nothing", "workers": {"max": 2}}


MISTAKES = {
    "missing file": (_set("data", "train", "nowhere.csv"), "cannot load the data 'nowhere.csv'"),
    "data of no known format": (
        _set("data", "train", "s3://bucket/reviews"),
        "cannot tell the format of the data 's3://bucket/reviews'",
    ),
    "missing column": (_csv("train", "body,label\nx,1\n"), "no column 'text', only body, label"),
    "empty file": (_csv("train", ""), "cannot load the data"),
    "no rows": (_csv("train", "text,label\n"), "has no rows"),
    "a list as a text": (
        _file("train", "d.jsonl", '{"text": "x", "label": "a"}\n{"text": ["y"], "label": "b"}\n'),
        "column 'text' holds a list in line 2",
    ),
    "a quote that is not closed": (
        _csv("train", 'text,label\nx,a\n"y,b\n'),
        "a quote that opens in the row at line 3 is never closed",
    ),
    "a file that is not UTF-8": (
        _file("train", "d.csv", b"text,label\nx,a\ncaf\xe9,b\n"),
        "line 3 has the byte 0xe9. Save it as UTF-8 or give data.encoding",
    ),
    "an encoding that there is not": (_set("data", "encoding", "utf-9"), "data.encoding: got"),
    "unknown label in test": (
        _csv("test", "text,label\nx,cooking\n"),
        "labels that the training set never shows: 'cooking'",
    ),
    "model folder that is not there": (
        _set("model", "name", "./no-model"),
        "there is no such folder",
    ),
    "model folder without weights": (_no_weights, "cannot be loaded"),
    "weights of which a part is missing": (_cut_weights, "cannot be loaded"),
    "model without blocks": (_no_blocks, "no row of transformer blocks"),
    "model folder without a tokenizer": (_no_tokenizer, "its tokenizer has no vocabulary"),
    "a damaged tokenizer": (_cut_tokenizer, "tokenizer.json is damaged"),
    "more blocks than weights": (
        _configured(num_hidden_layers=6),
        "its weights lack bert.encoder.layer.4.",
    ),
    "more positions than weights": (
        _configured(max_position_embeddings=128),
        "position_embeddings.weight is [64, 32] in its weights, but [128, 32]",
    ),
    "weights that are no numbers": (_nan, "bert.encoder.layer.1.output.dense.bias"),
    "a misspelt model": (_set("model", "name", "modles/mine"), "there is no such folder"),
    "words that the model does not know": (
        _csv("train", "text,label\n" + "".join(f"я{'я' * i},{LABELS[i % 3]}\n" for i in range(40))),
        "100 % of the tokens are unknown to the tokenizer",
    ),
    "package that is not installed": (_set("model", "name", "package:nothing/x"), "not installed"),
    "unknown key": (_set("training", "epoch", 3), "did you mean 'training.epochs'?"),
    "value out of range": (_set("training", "batch_size", 0), "training.batch_size: got 0"),
    "too long for the model": (_set("data", "max_length", 512), "positions for 64 tokens only"),
    "too deep": (_static_depth(4), "at most 3 can be frozen"),
    "store that cannot be written": (_unwritable_store, "cannot write"),
    "store of no known kind": (_store("gopher://x/y"), "Protocol not known"),
    "tracking that cannot be used": (_set("tracking", "uri", "nonsense://x"), "tracking.uri"),
    "tracking where no folder can be": (
        _set("tracking", "uri", "sqlite:////proc/nowhere/mlflow.db"),
        "tracking.uri",
    ),
    "more workers than devices": (_workers(max=512, batch_size=512), "but this machine has"),
    "workers that do not divide the batch": (
        _workers(max=3),
        "workers.max 3 does not divide training.batch_size 8",
    ),
    "more workers at least than at most": (_workers(max=1, min=2), "must not be more than max"),
    "a deadline and a budget": (
        _workers(max=2, deadline_seconds=60, budget_usd=1),
        "give deadline_seconds or budget_usd, not both",
    ),
    "a Ray that does not answer": (
        _workers(max=2, launcher="ray", ray_address="127.0.0.1:9"),
        "does not answer",
    ),
    "a GPU without a price": (_unknown_gpu, "aws/h100"),
    "workers, but no data": (_workers_and_no_data, "cannot load the data 'nowhere.csv'"),
    "workers without a common store": (_memory_store, "which workers do not see"),
}


# What is raised within the flow takes one way through Prefect, whatever it is: these take it.
THROUGH_PREFECT = (
    "missing file",
    "model without blocks",
    "store that cannot be written",
    "tracking that cannot be used",
    "tracking where no folder can be",
    "a Ray that does not answer",
    "workers, but no data",
)


@pytest.fixture
def without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow, and the task with which it begins, are plain functions."""
    from pipelines import finetune

    monkeypatch.setattr(finetune, "prepare", finetune.prepare.fn)
    monkeypatch.setattr(run_flow, "_import_flow", lambda _: finetune.finetune.fn)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_message_and_exit_code_2(
    mistake: str,
    request: pytest.FixtureRequest,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert set(THROUGH_PREFECT) < set(MISTAKES)
    if mistake not in THROUGH_PREFECT:
        request.getfixturevalue("without_prefect")
    change, message = MISTAKES[mistake]
    change(tiny_config, tmp_path)
    config = write_config(tmp_path / "c.yaml", tiny_config)
    assert autofreeze("run", config) == 2
    expect_one_message(capfd, message)
    nothing_believable(tiny_config["store"])
    assert not launchers._opened


@pytest.mark.usefixtures("prefect_server")
def test_a_deadline_that_cannot_be_kept_is_refused_with_the_best_reachable(
    tiny_config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_config |= {"mode": "efficiency", "workers": {"max": 2, "deadline_seconds": 0.001}}
    config = write_config(tmp_path / "c.yaml", tiny_config)
    assert autofreeze("run", config) == 2
    expect_one_message(capfd, "workers.deadline_seconds: 0.0 s cannot be kept")
    storage = Storage(tiny_config["store"])
    assert not [key for key in storage.list("runs") if key.endswith(("started.json", "point.json"))]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_compiling_without_a_compiler(
    tiny_config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from torch._inductor import config as inductor

    tiny_config["training"]["compile"] = True
    config = write_config(tmp_path / "c.yaml", tiny_config)
    with inductor.patch({"cpp.cxx": (None, "/no/such/compiler")}):
        assert autofreeze("run", config) == 2
    expect_one_message(capfd, "set training.compile to false")
    nothing_believable(tiny_config["store"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "cannot read the configuration 'nowhere.yaml'"),
        (["compare", "{config}", "--modes", "full,fast"], "known are full, freeze, cached"),
        (["run", "{config}", "--report", "/proc/nowhere/r.json"], "cannot be written"),
        (["run", "{config}", "--set", "training.epochs"], "not of the form"),
        (["predict", "./none", "{config}"], "its name must end in .csv"),
        (["cache", "gc", "--max-gb", "1", "--max-bytes", "9"], "give one of them"),
        (["cache", "ls", "--store", "/no/store"], "cannot list /no/store"),
        (["cache", "verify", "--store", "/no/store"], "cannot list /no/store"),
        (["cache", "gc", "--store", "/no/store"], "cannot list /no/store"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str],
    message: str,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config)
    assert autofreeze(*(a.format(config=config) for a in arguments)) == 2
    expect_one_message(capfd, message)


def test_a_missing_argument_is_a_usage_error() -> None:
    with pytest.raises(typer._click.exceptions.MissingParameter):
        autofreeze("run")
