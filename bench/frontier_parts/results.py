"""The results as one JSON file, with the machine they were measured on, pictures and tables."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console

from bench.frontier_parts.picture import frontier_picture
from bench.frontier_parts.pieces import Finished
from bench.frontier_parts.summary import OverSets, SetRow, SetSummary, over_sets, summarize
from bench.frontier_parts.tables import against_table, curve_table, over_sets_table, set_table
from bench.frontier_parts.training import SetFacts

__all__ = ["publish", "results_tree"]

_NOT_PUBLISHED = {"seeds", "scaled"}


def publish(
    finished: Sequence[Finished],
    facts: Mapping[str, SetFacts],
    machine: Mapping[str, Any],
    folders: Sequence[Path],
    console: Console,
) -> None:
    """Print the tables; write ``frontier.json`` and a picture a data set into each folder."""
    sets = summarize(finished)
    if not sets:
        console.print("no data set has a curve of full training yet: nothing to compare with")
        return
    console.print(curve_table(sets))
    for each in sets:
        console.print(set_table(each))
        console.print(against_table(each))
    means = over_sets(sets)
    console.print(over_sets_table(means))
    tree = results_tree(finished, sets, means, facts, machine)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "frontier.json").write_text(json.dumps(tree, indent=1) + "\n")
        for each in sets:
            frontier_picture(each).savefig(folder / f"{each.name}.png")
        console.print(f"{folder}/frontier.json and {', '.join(f'{s.name}.png' for s in sets)}")


def results_tree(
    finished: Sequence[Finished],
    sets: Sequence[SetSummary],
    means: Sequence[OverSets],
    facts: Mapping[str, SetFacts],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """All of it as plain values."""
    return {
        "machine": dict(machine),
        "sets": {
            each.name: {
                "facts": dataclasses.asdict(facts[each.name]) if each.name in facts else None,
                "full_by_epochs": {k: dataclasses.asdict(p) for k, p in each.curve.items()},
                "rows": [_row_tree(row) for row in each.rows],
            }
            for each in sets
        },
        "all_sets": [dataclasses.asdict(row) for row in means],
        "pieces": [_piece_tree(one) for one in finished],
    }


def _row_tree(row: SetRow) -> dict[str, Any]:
    """Without what is in the pieces; a single pair has no interval."""
    tree = {
        name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        for name, value in vars(row).items()
        if name not in _NOT_PUBLISHED
    }
    tree["against"] = {name: dataclasses.asdict(other) for name, other in row.against.items()}
    for other in tree["against"].values():
        if other["difference"]["num_pairs"] == 1:
            other["difference"] |= {"low": None, "high": None}
    return tree


def _piece_tree(one: Finished) -> dict[str, Any]:
    """Files are named without their folders, which are this machine's alone."""
    tree = one.to_json()
    tree["settings"] = {
        key: PurePath(value).name if key in ("data.train", "data.test") and value else value
        for key, value in one.settings.items()
    }
    return tree
