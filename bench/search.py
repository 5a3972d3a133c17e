"""A search beside the Trainer's own: the same space, sampler, pruner and number of trials.

Pieces, for each data set, in this order:

* ``trainer``: Hugging Face's ``Trainer.hyperparameter_search(backend="optuna")`` on the same
  tokens, grouped by length, its linear schedule, all epochs; a depth in the space freezes the
  embeddings and the lowest blocks there too;
* ``cold``: ``autofreeze search`` on an empty store;
* ``warm``: the same again, on a store that has the tokens, the sets and the measurements of
  ``cold``, but none of its runs;
* ``alone``: the trials of ``cold``, each with a store of its own, so that nothing is shared;
* ``proxy_cold`` and ``proxy_warm``: ``cold`` and ``warm`` with ``search.proxy``, which makes the
  trials cheaper, and the training of the best one as configured, which is timed too.

Timed is the search: loading, training, sets, evaluation, pruning; not the test of the winner, which
follows. ``wordnet-glosses`` has no depth in its space. Every piece is
a file under ``--out``: the same command goes on after a kill, and a piece is measured again when
its file is deleted. Nothing else should run. What is to be measured, and a guess of how long, is
printed first.

    python bench/search.py                   # three sets, 20 trials each
    python bench/search.py --quick           # one small set, 6 trials of 3 epochs
    python bench/search.py --sets certainty --corpora FOLDER --publish docs/search_bench
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bench is no part of the package

from afcore.config import Config, load_config, parse_overrides
from bench.frontier_parts.machine import describe_machine
from bench.frontier_parts.sets import make_sets, with_changes
from bench.recipes.options import add_source_options, given_sources
from bench.search_parts.pieces import DEPTHS, PIECES, RATE, measure, trainer_seconds
from bench.search_parts.results import publish

SETS = ("docstrings-package", "docstrings-kind", "wordnet-glosses")
WITHOUT_DEPTH = "wordnet-glosses"
PROXY = ["freezing.tolerance=2", "training.epochs=2"]
HERE = Path(__file__).parent
BASE = HERE / "frontier.yaml"
QUICK = {"data.limit": 500, "data.test_limit": 500}
SHARES = {
    "trainer": 1.0,
    "alone": 0.35,
    "cold": 0.25,
    "warm": 0.2,
    "proxy_cold": 0.18,
    "proxy_warm": 0.12,
}
"""Of the seconds of all the Trainer's epochs, a guess."""


def main() -> None:
    arguments = parse_arguments()
    console = Console(width=160)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    configs = choose_configs(arguments, console)
    announce(configs, arguments.out, console)
    found: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        for piece in PIECES:
            found.setdefault(name, {})[piece] = take(config, arguments.out / name, piece, console)
    folders = [arguments.out, *([arguments.publish] if arguments.publish else [])]
    publish(found, describe_machine(), folders, console)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_source_options(parser)
    parser.add_argument("--quick", action="store_true", help="one small set, 6 trials of 3 epochs")
    parser.add_argument("--sets", type=lambda text: text.split(","), help="comma-separated")
    parser.add_argument("--trials", type=int, help="of each search; default 20")
    parser.add_argument("--epochs", type=int, help="of each trial, at most; default 4")
    parser.add_argument("--proxy", action="append", help="of the cheaper trials, as KEY=VALUE")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "search")
    parser.add_argument("--publish", type=Path, help="also write JSON and a picture there")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    arguments.proxy = arguments.proxy or PROXY
    return arguments


def choose_configs(arguments: argparse.Namespace, console: Console) -> dict[str, Config]:
    """Of the sets that were asked for and can be made."""
    names = arguments.sets or (SETS[:1] if arguments.quick else SETS)
    made, missing = make_sets(names, arguments.out / "data", given_sources(arguments))
    for line in missing:
        console.print(line)
    changes = QUICK if arguments.quick else {}
    return {
        name: search_config(with_changes(one, changes).settings, arguments, name != WITHOUT_DEPTH)
        for name, one in made.items()
    }


def search_config(
    settings: dict[str, Any], arguments: argparse.Namespace, with_depth: bool
) -> Config:
    trials = arguments.trials or (6 if arguments.quick else 20)
    vary = {"training.learning_rate": RATE} | ({"freezing.depth": DEPTHS} if with_depth else {})
    config = load_config(str(BASE)).replace(**settings)
    search = {"vary": vary, "trials": trials, "sampler": "tpe", "pruner": "median"}
    search["proxy"] = parse_overrides(arguments.proxy, "--proxy")
    return config.replace(
        **{
            "training.epochs": arguments.epochs or (3 if arguments.quick else 4),
            "search": search,
        }
    )


def announce(configs: dict[str, Config], out: Path, console: Console) -> None:
    """What is left to measure, and a guess from an epoch of the Trainer on a few rows."""
    for name, config in configs.items():
        left = [piece for piece in PIECES if not (out / name / f"{piece}.json").exists()]
        if not left:
            continue
        assert config.search is not None
        epochs = config.training.num_epochs * (config.search.trials or 0)
        whole = trainer_seconds(config, out / name / "look", 160) * epochs
        guess = whole * sum(SHARES[piece] for piece in left)
        console.print(f"{name}: {', '.join(left)}; about {guess / 60:.0f} minutes")


def take(config: Config, folder: Path, piece: str, console: Console) -> dict[str, Any]:
    """What was measured before, or is now."""
    path = folder / f"{piece}.json"
    if not path.exists():
        measured = measure(config, folder, piece)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured, indent=1) + "\n")
        console.print(f"{folder.name}, {piece}: {measured['seconds']:.1f} s")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


if __name__ == "__main__":
    main()
