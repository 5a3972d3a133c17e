"""MLflow's database is there whole or not at all, whoever is killed, and whoever starts besides."""

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from afcore.tracking import database as tracking_database
from afcore.tracking.database import make_database, sqlite_path

# One process imports MLflow, which takes seconds, and forks those that are killed.
KILLS = """
import logging, os, signal, sys, time
from pathlib import Path
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from afcore.tracking.database import make_database

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
path = Path(sys.argv[1])

def start():
    if not (child := os.fork()):
        make_database(path)
        os._exit(0)
    return child

drafts = 0
for seconds in (0.02, 0.2, 0.5):
    draft = Path(f"{path}.draft")
    draft.unlink(missing_ok=True)
    child = start()
    while not draft.exists():
        time.sleep(0.001)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it was done before"
    assert not path.exists()
    drafts += draft.exists()
both = [start(), start()]
print(drafts, [os.waitpid(child, 0)[1] for child in both])
"""


def test_killed_while_it_is_made_and_then_two_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[0] == "3 [0, 0]", done.stderr
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == ["mlflow.db"]
    client = mlflow.MlflowClient(f"sqlite:///{path}")
    assert [found.name for found in client.search_experiments()] == ["Default"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, empty_tracking_store: Path) -> list[Path]:
    """Drafts that were made: by a copy, in no time."""
    drafts: list[Path] = []

    def copy(path: Path) -> None:
        drafts.append(path)
        shutil.copy(empty_tracking_store, path)

    monkeypatch.setattr(tracking_database, "_make_tables", copy)
    return drafts


def half_made(path: Path, *statements: str) -> None:
    """What MLflow leaves by itself when it is killed, written long ago."""
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT)")
        database.execute("CREATE TABLE experiment_tags (key TEXT)")
        database.execute("CREATE TABLE runs (run_uuid TEXT)")
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
        for statement in statements:
            database.execute(statement)
    database.close()
    os.utime(path, (0, 0))


def test_what_an_older_kill_left_is_made_anew(
    tmp_path: Path, made: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    half_made(path)
    Path(f"{path}.draft").write_text("of a process that was killed")
    Path(f"{path}-journal").write_text("of the former file")
    make_database(path)
    assert made == [tmp_path / "mlflow.db.draft"]
    assert not Path(f"{path}-journal").exists()
    assert mlflow.MlflowClient(f"sqlite:///{path}").get_experiment_by_name("Default") is not None
    assert "held no runs and is made anew" in caplog.text
    make_database(path)
    assert len(made) == 1


def test_a_server_that_is_making_it_is_waited_for(
    tmp_path: Path, made: list[Path], empty_tracking_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    half_made(path)
    os.utime(path)
    monkeypatch.setattr(
        tracking_database.time, "sleep", lambda _: shutil.copy(empty_tracking_store, path)
    )
    make_database(path)
    assert made == []
    assert path.read_bytes() == empty_tracking_store.read_bytes()


def test_all_other_files_are_left_alone(tmp_path: Path, made: list[Path]) -> None:
    half_made(tmp_path / "with a run", "INSERT INTO runs VALUES ('1')")
    half_made(tmp_path / "with an experiment", "INSERT INTO experiments VALUES (0, 'Default')")
    with sqlite3.connect(tmp_path / "somebody's") as database:
        database.execute("CREATE TABLE addresses (name TEXT)")
    database.close()
    (tmp_path / "no database").write_text("notes")
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(files) == 4
    for file in files:
        make_database(file)
    assert made == []
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:///a/b.db", Path("a/b.db")),
        ("sqlite:////a/b.db?timeout=3", Path("/a/b.db")),
        ("sqlite+pysqlite:///b.db", Path("b.db")),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("http://127.0.0.1:5000", None),
        ("mlruns", None),
    ],
)
def test_the_file_of_a_uri(uri: str, path: Path | None) -> None:
    assert sqlite_path(uri) == path
