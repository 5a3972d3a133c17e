"""MLflow's database as a SQLite file: there whole, or not at all.

MLflow makes its tables in more than sixty steps, and cannot go on from half of them. Here it makes
them in a draft beside the file, which takes the file's name when it is done.
"""

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path

from filelock import FileLock
from sqlalchemy.engine import make_url

__all__ = ["make_database", "sqlite_path"]

_QUIET_SECONDS = 10.0
_SEEDED = ("alembic_version", "workspaces")
"""Tables in which the making of tables writes rows."""
_log = logging.getLogger(__name__)


def sqlite_path(uri: str) -> Path | None:
    """The file of a tracking URI; None when it names none."""
    name = make_url(uri).database if uri.startswith("sqlite") else None
    return None if not name or name.startswith((":memory:", "file:")) else Path(name)


def make_database(path: Path) -> None:
    """Make the file with MLflow's tables, unless it is there.

    A kill at any instant leaves no file or a whole one; of processes that start at once, one makes
    it and the others wait. A file that a kill left half made, as MLflow does by itself, is made
    anew: it holds no rows. All other files are MLflow's business.

    Args:
        path: of the file; its folder is made too.

    Raises:
        OSError: when the folder cannot be written.
    """
    if path.exists() and not _is_half_made(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        _wait_for_other_makers(path)
        half_made = path.exists()
        if half_made and not _is_half_made(path):
            return
        draft = Path(f"{path}.draft")
        _remove(draft)
        _make_tables(draft)
        if half_made:
            _log.warning("%s, left half made by a kill, held no runs and is made anew", path)
        _remove(path)
        os.replace(draft, path)


def _is_half_made(path: Path) -> bool:
    """Whether it is empty, or has tables of MLflow's and nothing in any table."""
    # Writable, or a journal that a kill left could not be rolled back.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            found = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            tables = [name for (name,) in found if not name.startswith("sqlite_")]
            return (not tables or "experiments" in tables) and not any(
                db.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
                for name in tables
                if name not in _SEEDED
            )
    except sqlite3.Error:  # no database, or one that somebody writes just now
        return False


def _wait_for_other_makers(path: Path) -> None:
    """A server of MLflow's may be making the tables in place; it knows nothing of our lock."""
    while path.exists() and _is_half_made(path):
        idle = abs(time.time() - path.stat().st_mtime)
        if idle >= _QUIET_SECONDS:
            return
        time.sleep(min(1.0, _QUIET_SECONDS - idle))


def _make_tables(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", str(path.parent / "mlartifacts"))
    store.engine.dispose()


def _remove(path: Path) -> None:
    """A database and its journals, which would be taken for those of the next one."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
