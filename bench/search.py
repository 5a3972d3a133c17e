"""A search beside the Trainer's own: the same space, sampler, pruner and number of trials.

Pieces, for each data set, in this order:

* ``trainer``: Hugging Face's ``Trainer.hyperparameter_search(backend="optuna")`` on the same
  tokens, grouped by length, its linear schedule, all epochs; a depth in the space freezes the
  embeddings and the lowest blocks there too;
* ``cold``: ``autofreeze search`` on an empty store;
* ``warm``: the same again, on a store that has the tokens, the sets and the measurements of
  ``cold``, but none of its runs;
* ``alone``: the trials of ``cold``, each with a store of its own, so that nothing is shared.

Timed is the search: loading, training, sets, evaluation, pruning; not the test of the winner, which
follows for ``trainer`` and ``cold``. The last set has no depth in its space. Every piece is a file
under ``--out``: the same command goes on after a kill, and a piece is measured again when its file
is deleted. Nothing else should run. What is to be measured, and a guess of how long, is printed
first.

    python bench/search.py                                     # three sets, 20 trials each
    python bench/search.py --quick                             # one small set, 6 trials of 3 epochs
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))  # the bench is no part of the package

from afcore.config import Config, load_config
from afcore.runs.identify import identify_run
from afcore.runs.run import Run, load_model_of
from afcore.runs.whole_run import complete_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.sampling import make_pruner
from afcore.search.search_report import SearchReport
from afcore.search.space import trial_config
from afcore.search.trial_run import train_member
from afcore.storage.objects import Storage
from bench.frontier_parts.sets import make_sets, with_changes
from bench.recipes.sets import Sources

SETS = ("docstrings-package", "docstrings-kind", "wordnet-glosses")
PIECES = ("trainer", "cold", "warm", "alone")
BASE = Path(__file__).parent / "frontier.yaml"
QUICK = {"data.limit": 500, "data.test_limit": 500}
RATE = {"low": 3e-5, "high": 3e-4, "log": True}
DEPTHS = [2, 3, 4]


def main() -> None:
    arguments = _arguments()
    console = Console(width=160)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = arguments.sets or (SETS[:1] if arguments.quick else SETS)
    trials = arguments.trials or (6 if arguments.quick else 20)
    made, missing = make_sets(names, arguments.out / "data", Sources())
    for line in missing:
        console.print(line)
    configs = {
        name: _config(
            with_changes(one, QUICK if arguments.quick else {}).settings,
            arguments,
            with_depth=arguments.quick or name != SETS[-1],
            trials=trials,
        )
        for name, one in made.items()
    }
    _announce(configs, arguments.out, console)
    for name, config in configs.items():
        for piece in PIECES:
            _measure(config, arguments.out / name, piece, console)
        console.print(_table(name, arguments.out / name))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small set, 6 trials of 3 epochs")
    parser.add_argument("--sets", type=lambda text: text.split(","), help="comma-separated")
    parser.add_argument("--trials", type=int, help="of each search; default 20")
    parser.add_argument("--epochs", type=int, help="of each trial, at most; default 4")
    parser.add_argument("--out", type=Path, default=Path("bench/out/search"))
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    return arguments


def _config(
    settings: dict[str, Any], arguments: argparse.Namespace, *, with_depth: bool, trials: int
) -> Config:
    vary = {"training.learning_rate": RATE} | ({"freezing.depth": DEPTHS} if with_depth else {})
    config = load_config(str(BASE)).replace(**settings)
    return config.replace(
        **{
            "training.epochs": arguments.epochs or (3 if arguments.quick else 4),
            "search": {"vary": vary, "trials": trials, "sampler": "tpe", "pruner": "median"},
        }
    )


def _announce(configs: dict[str, Config], out: Path, console: Console) -> None:
    """What is measured, and a guess from an epoch of the Trainer on a few rows."""
    for name, config in configs.items():
        left = [piece for piece in PIECES if not (out / name / f"{piece}.json").exists()]
        if not left:
            continue
        with _opened(config, out / name / "look") as (run, data):
            clock = time.perf_counter()
            _trainer(
                run, data, lambda trial: load_model_of(run.config, run.record.task), 1, 160
            ).train()
            epoch = (time.perf_counter() - clock) / 160 * len(data.train)
            assert config.search is not None
            whole = epoch * run.config.training.num_epochs * (config.search.trials or 0)
        shares = {"trainer": 1.0, "alone": 0.5, "cold": 0.3, "warm": 0.3}
        guess = whole * sum(shares[piece] for piece in left)
        console.print(f"{name}: {', '.join(left)}; about {guess / 60:.0f} minutes")


def _measure(config: Config, folder: Path, piece: str, console: Console) -> None:
    path = folder / f"{piece}.json"
    if path.exists():
        return
    measured = {"trainer": _measure_trainer, "alone": _measure_alone}.get(piece, _measure_ours)(
        config, folder, piece
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=1) + "\n")
    console.print(f"{folder.name}, {piece}: {measured['seconds']:.1f} s")


def _measure_ours(config: Config, folder: Path, piece: str) -> dict[str, Any]:
    shutil.rmtree(folder / ("store" if piece == "cold" else "store/runs"), ignore_errors=True)
    (folder / "optuna.db").unlink(missing_ok=True)
    config = _stored(config, folder)
    clock = _Clock()
    conductor = StudyConductor(prepare_study(config))
    more = True
    while more:
        with conductor.next_trial() as handle:
            more = handle is not None
            if handle is not None:
                conductor.train(handle)
    taken = clock.read()
    report = conductor.report()
    _, winner = complete_run(conductor.winner())
    best = report.best_row
    assert best is not None
    return {
        **taken,
        "validation": best.score,
        "test": winner.main_score,
        "values": best.values,
        "pruned": sum(row.state == "pruned" for row in report.trials),
        "report": json.loads(report.model_dump_json(by_alias=True)),
    }


def _measure_alone(config: Config, folder: Path, piece: str) -> dict[str, Any]:
    """The trials of the cold search, to the epoch to which they came there, nothing shared."""
    cold = json.loads((folder / "cold.json").read_text())
    report = SearchReport.model_validate(cold["report"])
    taken, scores = {"seconds": 0.0, "processor_seconds": 0.0}, []
    for row in report.trials:
        shutil.rmtree(folder / "alone", ignore_errors=True)
        one = trial_config(_stored(config, folder / "alone"), row.values)
        one = one.replace(**{"cache.share": False})
        storage = Storage(one.store)
        epochs = len(row.epochs)
        clock = _Clock()
        member = train_member(
            one, storage, one.main_score, None, None, lambda m, most=epochs: len(m.epochs) < most
        )
        taken = {name: taken[name] + value for name, value in clock.read().items()}
        scores.append(member.score)
    return {**taken, "validation": max(filter(None, scores)), "scores": scores}


def _measure_trainer(config: Config, folder: Path, piece: str) -> dict[str, Any]:
    clock = _Clock()
    with _opened(config, folder / "trainer") as (run, data):
        trainer = _trainer(run, data, lambda trial: _frozen_model(run, _depth(trial)))
        search = config.search
        assert search is not None

        def space(trial: optuna.Trial) -> dict[str, Any]:
            if "freezing.depth" in search.vary:
                trial.suggest_categorical("depth", DEPTHS)
            low, high = RATE["low"], RATE["high"]
            return {"learning_rate": trial.suggest_float("learning_rate", low, high, log=True)}

        best = trainer.hyperparameter_search(
            hp_space=space,
            n_trials=search.trials,
            direction="maximize",
            backend="optuna",
            compute_objective=lambda metrics: metrics["eval_accuracy"],
            sampler=optuna.samplers.TPESampler(seed=search.seed),
            pruner=make_pruner(search, run.config.training.num_epochs),
        )
        taken = clock.read()
        assert best.hyperparameters is not None
        values = dict(best.hyperparameters)
        again = _trainer(run, data, lambda trial: _frozen_model(run, values.get("depth", 0)))
        again.args.learning_rate = values["learning_rate"]
        again.train()
        test = again.evaluate(_rows(data.test))["eval_accuracy"]
    return {**taken, "validation": best.objective, "test": test, "values": values}


class _Clock:
    """Seconds since it was made; those of this process's cores say more on a busy machine."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": time.perf_counter() - self._began[0],
            "processor_seconds": time.process_time() - self._began[1],
        }


def _depth(trial: Any) -> int:
    return 0 if trial is None else int(trial.params.get("depth", 0))


def _frozen_model(run: Run, depth: int) -> Any:
    model = load_model_of(run.config, run.record.task)
    frozen = [model.base_model.embeddings, *model.base_model.encoder.layer[:depth]] if depth else []
    for part in frozen:
        part.requires_grad_(False)
    return model


def _trainer(
    run: Run, data: Any, make_model: Callable[[Any], Any], epochs: int | None = None,
    most_rows: int | None = None,
) -> Any:  # fmt: skip
    """As most people set it up, with its fastest order and without what costs time."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    from afcore.model.processors import load_processor

    training = run.config.training
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # asked for; nothing is written there
        num_train_epochs=epochs or training.epochs,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=training.seed,
        bf16=run.record.precision == "bf16",
        use_cpu=run.compute.device.type == "cpu",
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        logging_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = load_processor("tokenizer", run.config.model.name)
    trainer = Trainer(
        model_init=make_model,
        args=arguments,
        train_dataset=_rows(data.train)[:most_rows],
        eval_dataset=_rows(data.validation),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda found: {
            "accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))
        },
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _rows(examples: Any) -> list[dict[str, Any]]:
    """Tokens and labels, as the Trainer reads them."""
    tokens, labels = examples.inputs["input_ids"], examples.targets["labels"].values
    pairs = zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    return [
        {"input_ids": tokens.values[a:b].tolist(), "labels": int(label)}
        for (a, b), label in zip(pairs, labels, strict=True)
    ]


@contextlib.contextmanager
def _opened(config: Config, folder: Path) -> Iterator[tuple[Run, Any]]:
    """The prepared data and what the run is, in a store that is gone afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    plain = _stored(config, folder).model_copy(update={"search": None})
    storage = Storage(plain.store)
    run = Run(storage, identify_run(plain, storage))
    try:
        yield run, run.data()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stored(config: Config, folder: Path) -> Config:
    changes = {"store": str(folder / "store"), "search.storage": f"sqlite:///{folder}/optuna.db"}
    return config.replace(**changes)


def _table(name: str, folder: Path) -> Table:
    found = {piece: json.loads((folder / f"{piece}.json").read_text()) for piece in PIECES}
    table = Table(
        title=f"Search on {name}, {torch.get_num_threads()} threads", title_justify="left"
    )
    numbers = ("seconds", "over trainer", "over alone", "processor s", "over trainer", "over alone")
    for column in ("search", *numbers, "validation", "test", "best"):
        table.add_column(column, justify="left" if column in ("search", "best") else "right")
    for piece, one in found.items():
        table.add_row(
            piece,
            *_compared(found, one, "seconds"),
            *_compared(found, one, "processor_seconds"),
            f"{100 * one['validation']:.2f} %",
            f"{100 * one['test']:.2f} %" if "test" in one else "-",
            ", ".join(f"{key}={value:.3g}" for key, value in one.get("values", {}).items()),
        )
    return table


def _compared(found: dict[str, Any], one: dict[str, Any], name: str) -> list[str]:
    over = [f"{found[other][name] / one[name]:.2f}x" for other in ("trainer", "alone")]
    return [f"{one[name]:.1f}", *over]


if __name__ == "__main__":
    main()
