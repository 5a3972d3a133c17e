"""Is it faster than training less? Accuracy against seconds of every way of training, by data set.

For each data set: full training at several durations, which is the curve; Hugging Face's Trainer at
three epochs, with early stopping, and with LoRA; blocks frozen from the start; the paper's rule;
``guarded``; and the default policy at three tolerances. The yardstick, and what its clock counts:
``bench/frontier_parts/yardstick.py``. The rows: ``rows.py`` there. The data sets: ``sets.py``.

Learning rates are chosen first, on validation: for each set and kind of row one of three, with the
first seed and two epochs. Then come the first seed of all rows on all sets, the second, and so on.
Every training is a piece: finished ones are files under ``--out``, and the same command goes on
after them, so it can be killed. A piece is trained again when its file is deleted or its settings
change. Pieces are timed, so nothing else should run; one that was disturbed is seen and repeated.

    python bench/frontier.py --agnews train.csv test.csv --seeds 0,1,2 --publish docs/frontier
    python bench/frontier.py --quick                                   # two sets, 30 minutes
    python bench/frontier.py --set data.limit=200 --rows static,hf_trainer --seeds 0   # a try
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bench is no part of the package

from bench.frontier_parts.budget import budget_table, forecast
from bench.frontier_parts.machine import describe_machine, differences
from bench.frontier_parts.order import Plan
from bench.frontier_parts.pieces import ATTEMPTS, PieceFiles, References, run_pieces
from bench.frontier_parts.reference import Reference
from bench.frontier_parts.results import publish
from bench.frontier_parts.rows import chosen_rows
from bench.frontier_parts.sets import QUICK, DataSet, make_sets, set_names, with_changes
from bench.frontier_parts.training import PieceTraining, SetFacts
from bench.recipes.options import add_source_options, given_sources

HERE = Path(__file__).parent
QUICK_ROWS = "full,ours-0.5,hf_trainer,hf_early,static-1of3-2,static-2of3-4,guarded"


def main() -> None:
    arguments = parse_arguments()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(out / "prefect"))
    console = Console(width=180)
    machine = check_machine(out / "machine.json")
    if not arguments.only_report:
        measure(out, arguments, machine["commit"], console)
    files = PieceFiles(out / "pieces")
    facts = read_facts(out / "sets.json")
    folders = [out / "results", *([arguments.publish] if arguments.publish else [])]
    publish(files.all(), facts, machine, folders, console)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_source_options(parser)
    parser.add_argument(
        "--set-csv",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "TRAIN", "TEST", "MAX_LENGTH"),
        help="a data set of your own, CSV: text,label; longest example in tokens",
    )
    parser.add_argument("--sets", type=words, help="comma-separated; default: all there are")
    parser.add_argument("--rows", type=words, help="names or groups; full is always trained")
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[0, 1, 2],
        help="comma-separated; the first one chooses the rates",
    )
    parser.add_argument("--rate", type=float, default=1e-4, help="the middle of the grid")
    parser.add_argument("--fixed-rate", action="store_true", help="choose none: take the middle")
    parser.add_argument("--hours", type=float, default=12.0, help="then no piece is started")
    parser.add_argument(
        "--attempts", type=int, default=ATTEMPTS, help="at a piece that was disturbed, at most"
    )
    parser.add_argument("--quick", action="store_true", help="two sets, one seed, 30 minutes")
    parser.add_argument("--set", action="append", default=[], help="further settings, of all rows")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, help="default: bench/out/frontier, or frontier-quick")
    parser.add_argument("--publish", type=Path, help="also write JSON and pictures there")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds = arguments.seeds[:1]
        arguments.fixed_rate = True
        arguments.rows = arguments.rows or words(QUICK_ROWS)
        arguments.hours = min(arguments.hours, 0.5)
    arguments.out = arguments.out or HERE / "out" / f"frontier{'-quick' * arguments.quick}"
    try:
        arguments.chosen_sets = choose_sets(arguments)
        arguments.chosen_rows = chosen_rows(arguments.rows)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def choose_sets(arguments: argparse.Namespace) -> dict[str, DataSet]:
    """Those asked for, with the further settings in theirs."""
    known = set_names(arguments.set_csv)
    names = arguments.sets or known[: 2 if arguments.quick else None]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no data set {', '.join(unknown)}; known are {', '.join(known)}")
    changes: dict[str, Any] = dict(QUICK) if arguments.quick else {}
    for setting in arguments.set:
        key, _, value = setting.partition("=")
        changes[key] = yaml.safe_load(value)
    made, missing = make_sets(
        names, HERE / "out" / "data", given_sources(arguments), arguments.set_csv
    )
    for line in missing:
        print(line, file=sys.stderr)
    return {name: with_changes(data_set, changes) for name, data_set in made.items()}


def check_machine(path: Path) -> dict[str, Any]:
    """This one; seconds of another one are not put beside its own."""
    machine = describe_machine()
    known = json.loads(path.read_text()) if path.exists() else machine
    if unlike := differences(known, machine):
        raise SystemExit(
            f"{path.parent} was measured on another machine than this: {'; '.join(unlike)}. "
            "Give another --out."
        )
    path.write_text(json.dumps(machine, indent=1) + "\n")
    return machine


def measure(out: Path, arguments: argparse.Namespace, commit: str | None, console: Console) -> None:
    """Say what is left, then train it."""
    from pipelines.environment import set_defaults
    from pipelines.ephemeral import ephemeral_server

    began = time.monotonic()
    set_defaults()
    with ephemeral_server():
        training = PieceTraining(HERE / "frontier.yaml", out / "work")
        facts = look_at_sets(training, arguments.chosen_sets, out / "sets.json")
        files = PieceFiles(out / "pieces")
        plan = Plan(
            arguments.chosen_sets,
            arguments.chosen_rows,
            arguments.seeds,
            arguments.rate,
            not arguments.fixed_rate,
            next(iter(facts.values())).num_blocks,
            files,
        )
        known = [seconds for one in files.all() for seconds in one.references]
        references = References(Reference().seconds, known)
        usual = statistics.median(known) if known else references.take()
        left = forecast(plan, facts, usual)
        console.print(budget_table(left, facts, arguments.seeds, arguments.hours))
        failed = run_pieces(
            plan.pieces(),
            files,
            plan.resolve,
            lambda _, settings: {**training.train(settings), "commit": commit},
            references,
            seconds_left=lambda: 3600 * arguments.hours - (time.monotonic() - began),
            attempts=arguments.attempts,
            say=lambda line: console.print(line, markup=False),
        )
    for piece, why in failed.items():
        console.print(f"failed: {piece.path}: {why}", markup=False)


def look_at_sets(
    training: PieceTraining, sets: dict[str, DataSet], path: Path
) -> dict[str, SetFacts]:
    """Sizes and a reference epoch of each set, measured once."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, data_set in sets.items():
        settings = dict(data_set.settings)
        if known.get(name, {}).get("settings") != settings:
            facts = training.look_at(settings)
            known[name] = {"settings": settings, "facts": dataclasses.asdict(facts)}
            path.write_text(json.dumps(known, indent=1) + "\n")
    facts_of = read_facts(path)
    return {name: facts_of[name] for name in sets}


def read_facts(path: Path) -> dict[str, SetFacts]:
    known = json.loads(path.read_text()) if path.exists() else {}
    return {name: SetFacts(**one["facts"]) for name, one in known.items()}


if __name__ == "__main__":
    main()
