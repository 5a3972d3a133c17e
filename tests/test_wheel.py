"""What is installed is what is needed: no more, and in any folder."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

from afcore.errors import ConfigError
from pipelines.example_configs import write_examples

ROOT = Path(__file__).parent.parent
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
USE = """
import afcore, pipelines
from pipelines.cli import app
print(afcore.__file__, pipelines.__file__)
app(["examples"], standalone_mode=False)
for cluster in ("paper-p100", "examples/clusters/paper-p100.yaml"):
    app(["simulate", "--cluster", cluster, "--report", "report.json"], standalone_mode=False)
"""
PAPER = (
    "ag_news",
    "cnn_dailymail",
    "imdb",
    "mrpc",
    "qnli",
    "rte",
    "sogou",
    "squad_v2",
    "swag",
    "yelp_full",
)
EXAMPLES = {
    "causal_language_modeling.yaml",
    "clusters/h100-8x8.yaml",
    "clusters/paper-p100.yaml",
    "choices.yaml",
    "digits.yaml",
    *(f"paper/{name}.yaml" for name in PAPER),
    "prefect.yaml",
    "prices.yaml",
    "question_answering.yaml",
    "quickstart.yaml",
    "summarization.yaml",
    "token_classification.yaml",
    "traces/agnews-gradient-norm.json",
    "workloads/bert-base-agnews.yaml",
    "workloads/bert-large-agnews.yaml",
    "workloads/decoder-8b.yaml",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in a copy, as a build leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("afcore", "bench", "pipelines", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-c", BUILD, "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_two_packages_with_their_files_and_nothing_else(
    wheel: zipfile.ZipFile,
) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in ("afcore", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".json", ".html")
    }
    assert names == expected
    assert {f"afcore/shipped/{name}" for name in ("prices.yaml", "clusters/h100-8x8.yaml")} < names


def test_its_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = message_from_string(wheel.read(name).decode())
    assert metadata["Requires-Python"] == ">=3.11"
    versions = {c.rpartition(":: ")[2] for c in metadata.get_all("Classifier", []) if ":: 3." in c}
    assert versions == {"3.11", "3.12", "3.13"}
    required = metadata.get_all("Requires-Dist", [])
    extra = {one.partition(";")[0].strip(): one.rpartition(";")[2].strip() for one in required}
    assert extra["ray[train]==2.60.0"] == 'extra == "ray"'
    assert not {one for one in required if "extra" not in one and ("ray" in one or "peft" in one)}


def test_examples_and_what_uses_them_in_another_folder(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    installed, folder = tmp_path / "site-packages", tmp_path / "elsewhere"
    wheel.extractall(installed)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", USE],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    used, *listed = done.stdout.splitlines()[: len(EXAMPLES) + 1]
    assert used.split() == [f"{installed}/{name}/__init__.py" for name in ("afcore", "pipelines")]
    assert listed == [f"examples/{name}" for name in sorted(EXAMPLES)]
    for name in EXAMPLES:
        assert (folder / "examples" / name).stat().st_size > 100
    assert (
        json.loads((folder / "report.json").read_text())["cluster"]
        == yaml.safe_load((folder / "examples" / "clusters" / "paper-p100.yaml").read_text())[
            "name"
        ]
    )


def test_examples_overwrite_nothing(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty; give a new folder"):
        write_examples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["prices.yaml"]
    with pytest.raises(ConfigError, match=r"cannot write to .*Not a directory"):
        write_examples(tmp_path / "prices.yaml")
    assert (tmp_path / "prices.yaml").read_text() == "mine"
