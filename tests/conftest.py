"""What many tests share: small real text, tiny models, stores of every kind, one Prefect server."""

import ast
import contextlib
import copy
import csv
import gc
import importlib.util
import inspect
import logging
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Before torch is imported; the children of this process get them too. A second OpenMP thread only
# spins on the core of another process: the models are tiny.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
import yaml
from filelock import FileLock
from matplotlib.layout_engine import ConstrainedLayoutEngine
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from afcore.data.builtin import (
    docstring_choices,
    docstring_summaries,
    docstrings,
    parameters,
    questions,
)
from afcore.storage import lease as lease_module
from afcore.storage.objects import Storage

BUCKET = "autofreeze-test"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--done-file", type=Path, help="skip the tests that it names; add those that pass"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    path = config.getoption("--done-file")
    done = set(path.read_text().splitlines()) if path and path.exists() else set()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report, path = outcome.get_result(), item.config.getoption("--done-file")
    if path and report.when == "call" and report.passed:
        with path.open("a") as file:
            file.write(f"{item.nodeid}\n")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many runs survived what was done to them, and how much they did twice."""
    tried = [
        (kind, dict(report.user_properties))
        for kind in ("passed", "failed")
        for report in terminalreporter.stats.get(kind, [])
        if report.when == "call" and "test_killed_at" in report.nodeid
    ]
    if tried:
        seconds = [float(found.get("repeated_seconds", 0.0)) for _, found in tried]
        survived = sum(kind == "passed" for kind, _ in tried)
        terminalreporter.write_line(
            f"killed runs: {survived} of {len(tried)} survived; repeated {sum(seconds):.1f} s in "
            f"all, at most {max(seconds):.1f} s in one"
        )


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_is_no_garbage() -> None:
    """What was imported stays; else every collection, as the Trainer's, looks at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _pictures_of_flows_are_laid_out_quickly(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are drawn; to look for the best places first takes as long. tests/results does."""
    if "prefect_server" in request.fixturenames:
        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: {})


def stdlib_rows() -> list[dict[str, str]]:
    """Real text that every machine has: docstrings of three standard modules, labelled by them."""
    import argparse
    import random
    import statistics

    rows: dict[str, str] = {}
    for module in (argparse, random, statistics):
        for text in _docstrings(module):
            rows.setdefault(text, module.__name__)
    return [{"text": text, "label": label} for text, label in sorted(rows.items())]


def _docstrings(module: ModuleType) -> Iterator[str]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = " ".join((ast.get_docstring(node) or "").split())
            if len(text) >= 20:
                yield text


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def text_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``train`` and ``test`` CSV files with the columns text and label."""
    folder = tmp_path_factory.mktemp("text")
    rows = stdlib_rows()
    return {
        "train": write_csv(folder / "train.csv", [r for i, r in enumerate(rows) if i % 4]),
        "test": write_csv(folder / "test.csv", rows[::4]),
    }


@pytest.fixture
def few_built_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the built-in data sets as many as an example needs; to read all takes many seconds."""
    limits = {
        docstrings: "ROWS_PER_PACKAGE",
        docstring_choices: "ROWS_PER_PACKAGE",
        docstring_summaries: "ROWS_PER_PACKAGE",
        parameters: "_FUNCTIONS_PER_PACKAGE",
        questions: "_FUNCTIONS_PER_PACKAGE",
    }
    for module, limit in limits.items():
        monkeypatch.setattr(module, limit, 40)
        monkeypatch.setattr(module, "_all_rows", cache(module._all_rows.__wrapped__))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A WordPiece tokenizer, as BERT's is: the text's letters and its commonest 300 words.

    Not trained: which of two equally common pieces a training takes differs between processes.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for row in stdlib_rows():
        split = splitter.pre_tokenize_str(normalizer.normalize_str(row["text"]))
        counts.update(word for word, _ in split)
    letters = sorted({letter for word in counts for letter in word})
    words = sorted(counts, key=lambda word: (-counts[word], word))[:300]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A folder with a BERT of four small blocks, weights in safetensors, and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    transformers.BertModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


TINY_GENERATORS: dict[str, dict[str, Any]] = {
    "bart": {
        "d_model": 32,
        "encoder_layers": 4,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 64,
    },
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 4,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "decoder_start_token_id": 0,
    },
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} [SEP] "
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_generators(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A folder of folders with models that write text, of random weights, and a tokenizer each."""
    folder = tmp_path_factory.mktemp("tiny-generators")
    for name, sizes in TINY_GENERATORS.items():
        torch.manual_seed(0)
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
        config = transformers.AutoConfig.for_model(
            name, vocab_size=len(tiny_tokenizer), **special, **sizes
        )
        auto = transformers.AutoModelForCausalLM
        if config.is_encoder_decoder:
            config.decoder_start_token_id = sizes.get("decoder_start_token_id", 3)
            auto = transformers.AutoModelForSeq2SeqLM
        auto.from_config(config).save_pretrained(folder / name)
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.eos_token = "[SEP]"
        tokenizer.backend_tokenizer.decoder = decoders.WordPiece()
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ViT of four small blocks and its processor."""
    folder = tmp_path_factory.mktemp("tiny-vit")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.ViTModel(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(folder)
    return folder


def _of_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pytest's processes have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def empty_tracking_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, which take it seconds to make; to be copied."""
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    path = _of_all_processes(tmp_path_factory) / "empty-mlflow.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            made = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
            mlflow.MlflowClient(f"sqlite:///{made}").search_experiments()
            shutil.copy(made, f"{path}.draft")
            Path(f"{path}.draft").rename(path)
    return path


def tiny_tree(folder: Path, model: Path, text_files: dict[str, Path]) -> dict[str, Any]:
    """A configuration tree that trains the tiny model in a second."""
    return {
        "mode": "cached",
        "model": {"name": str(model)},
        "data": {
            "train": str(text_files["train"]),
            "test": str(text_files["test"]),
            "max_length": 32,
        },
        "training": {
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "precision": "fp32",
        },
        "freezing": {"policy": "gradient_norm", "intervals_per_epoch": 3},
        "cache": {"mode": "on"},
        "store": str(folder / "store"),
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": "test"},
    }


@pytest.fixture
def tiny_config(
    tmp_path: Path, tiny_bert: Path, text_files: dict[str, Path], empty_tracking_store: Path
) -> dict[str, Any]:
    """One of a folder of its own, with MLflow's tables."""
    shutil.copy(empty_tracking_store, tmp_path / "mlflow.db")
    return tiny_tree(tmp_path, tiny_bert, text_files)


def load_script(path: Path) -> ModuleType:
    """A file that belongs to no package, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_config(path: Path, tree: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """moto's S3 server on an ephemeral port, with credentials in the environment and a bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with environment(variables):
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield variables["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def s3_requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each request is sent to S3 through s3fs, as botocore names them."""
    import s3fs

    counts: Counter[str] = Counter()

    def counting(send: Any) -> Any:
        def call(file_system: Any, method: str, *arguments: Any, **options: Any) -> Any:
            counts[method] += 1
            return send(file_system, method, *arguments, **options)

        return call

    # Its own methods send by the first, who asks from outside by the second.
    for name in ("_call_s3", "call_s3"):
        monkeypatch.setattr(s3fs.S3FileSystem, name, counting(getattr(s3fs.S3FileSystem, name)))
    return counts


@pytest.fixture(params=["file", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty store of each kind."""
    if request.param == "file":
        return Storage(str(tmp_path / "root"))
    if request.param == "memory":
        return Storage(f"memory://{tmp_path.name}")
    request.getfixturevalue("s3_endpoint")
    return Storage(f"s3://{BUCKET}/{tmp_path.name}-{time.time_ns()}")


@pytest.fixture
def local_storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Any]:
    """What runs end with that nothing disturbed; each is filled in once, by who needs it first."""
    return {}


@pytest.fixture
def quick_hearts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearts of leases beat so often that nobody watches one for long."""
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.04)


@pytest.fixture
def wrong_by(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the clock is wrong, for this thread and not for the hearts of leases."""
    here, true, wrong = threading.current_thread(), time.time, [0.0]

    def now() -> float:
        return true() + (wrong[0] if threading.current_thread() is here else 0.0)

    monkeypatch.setattr(time, "time", now)
    return wrong


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for the whole session, used in this process and its children."""
    import httpx

    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    empty = _of_all_processes(tmp_path_factory) / "empty-prefect.db"
    if empty.exists():
        shutil.copy(empty, home / "prefect.db")
    url = f"http://127.0.0.1:{port}/api"
    variables = {
        "PREFECT_HOME": str(home),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # So that a schedule switched on is seen in seconds.
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    with environment(variables):
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
        with (home / "server.log").open("w") as log:
            server = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            for _ in range(1800):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/health").status_code == 200:
                        break
                assert server.poll() is None, (home / "server.log").read_text()
                time.sleep(0.1)
            if not empty.exists():
                _copy_database(home / "prefect.db", empty)
            with environment({"PREFECT_API_URL": url}), _prefect_settings(variables, url):
                yield url
                _send_the_last_lines()
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


@pytest.fixture
def prefect_home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a server of the test's own: with Prefect's tables, where another server has made some."""
    home = tmp_path / "prefect"
    home.mkdir()
    empty = _of_all_processes(tmp_path_factory) / "empty-prefect.db"
    if empty.exists():
        shutil.copy(empty, home / "prefect.db")
    return home


def _copy_database(source: Path, target: Path) -> None:
    """While it is written to."""
    draft = target.with_suffix(f".{os.getpid()}")
    with (
        contextlib.closing(sqlite3.connect(source)) as original,
        contextlib.closing(sqlite3.connect(draft)) as copied,
    ):
        original.backup(copied)
    draft.rename(target)


def _send_the_last_lines() -> None:
    """While there is a server: without one this process would wait for it at its end."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=20)


@contextlib.contextmanager
def _prefect_settings(variables: dict[str, str], url: str) -> Iterator[None]:
    """Prefect reads the environment once, at import; this process may have imported it before."""
    from prefect.logging.configuration import setup_logging
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        temporary_settings,
    )

    setup_logging()  # now, not within a test whose log handlers it would drop
    with temporary_settings(
        {
            PREFECT_API_URL: url,
            PREFECT_HOME: variables["PREFECT_HOME"],
            PREFECT_LOCAL_STORAGE_PATH: variables["PREFECT_LOCAL_STORAGE_PATH"],
        }
    ):
        yield


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
