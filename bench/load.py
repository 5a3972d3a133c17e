"""What holds when there is much of it: runs at once, objects in a store, runs in an experiment.

Four pieces, each a file under ``--out``; one that is there is not measured again, so the same
command goes on after a kill. All of it is real but the million objects, whose listing a small
server makes up as it is asked (``bench/load_parts/generated_s3.py``).

    python bench/load.py
    python bench/load.py --pieces listing,mlflow --out bench/out/load
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bench is no part of the package

HERE = Path(__file__).parent
Piece = Callable[[Path, argparse.Namespace], Any]


def runs_piece(work: Path, arguments: argparse.Namespace) -> Any:
    from bench.load_parts.runs_at_once import runs_at_once

    return runs_at_once(work, arguments.runs)


def store_piece(_work: Path, arguments: argparse.Namespace) -> Any:
    from bench.load_parts.many_objects import measure_store

    return measure_store(arguments.objects)


def listing_piece(_work: Path, arguments: argparse.Namespace) -> Any:
    from bench.load_parts.many_objects import measure_listing

    return measure_listing(arguments.listed)


def mlflow_piece(work: Path, arguments: argparse.Namespace) -> Any:
    from bench.load_parts.many_mlflow_runs import measure_mlflow

    return measure_mlflow(work, arguments.tracked)


PIECES: dict[str, Piece] = {
    "runs": runs_piece,
    "store": store_piece,
    "listing": listing_piece,
    "mlflow": mlflow_piece,
}


def main() -> None:
    """Measure what is not measured yet, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--pieces",
        type=lambda text: text.split(","),
        default=list(PIECES),
        help=f"comma-separated, of {', '.join(PIECES)}",
    )
    parser.add_argument("--runs", type=int, default=20, help="submitted at once")
    parser.add_argument("--objects", type=numbers, default=[1000, 10_000], help="on moto's server")
    parser.add_argument("--listed", type=numbers, default=[100_000, 1_000_000])
    parser.add_argument("--tracked", type=numbers, default=[10, 1000], help="runs in MLflow")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "load")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.pieces if name not in PIECES]:
        parser.error(f"--pieces: {', '.join(unknown)} not among {', '.join(PIECES)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=160)
    for name in arguments.pieces:
        file = arguments.out / f"{name}.json"
        if not file.exists():
            work = Path(tempfile.mkdtemp(prefix="autofreeze-load-"))
            try:
                rows = PIECES[name](work, arguments)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps(rows, indent=1))
            draft.replace(file)
        show(console, name, json.loads(file.read_text()))
    console.print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def numbers(text: str) -> list[int]:
    """Comma-separated."""
    return [int(word) for word in text.split(",")]


def show(console: Console, name: str, rows: Any) -> None:
    """A table: of one row its names and values, else a column a name."""
    rows = [{"what": what, "": value} for what, value in rows.items()] if is_one(rows) else rows
    table = Table(*rows[0], title=name, title_justify="left")
    for row in rows:
        table.add_row(*(shown(value) for value in row.values()))
    console.print(table)


def is_one(rows: Any) -> bool:
    """Whether it is a single row."""
    return isinstance(rows, dict)


def shown(value: Any) -> str:
    """As people read it."""
    return (
        f"{value:,.1f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


if __name__ == "__main__":
    main()
