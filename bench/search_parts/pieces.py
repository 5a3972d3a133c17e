"""What is timed: the Trainer's search, ours on an empty and on a full store, our trials alone.

And ours with cheaper trials, after which the best one is trained as configured.
"""

import contextlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from afcore.config import Config
from afcore.runs.identify import identify_run
from afcore.runs.run import Run, load_model_of
from afcore.runs.whole_run import complete_run
from afcore.search.conduct_study import StudyConductor, prepare_study
from afcore.search.sampling import make_pruner
from afcore.search.search_report import MemberRow, SearchReport
from afcore.search.space import trial_config
from afcore.search.trial_run import train_member
from afcore.storage.objects import Storage

__all__ = ["DEPTHS", "PIECES", "RATE", "measure", "trainer_seconds"]

PIECES = ("trainer", "cold", "warm", "alone", "proxy_cold", "proxy_warm")
"""In this order: ``warm`` reads what ``cold`` has made, ``alone`` repeats its trials."""
RATE = {"low": 3e-5, "high": 3e-4, "log": True}
DEPTHS = [2, 3, 4]


def measure(config: Config, folder: Path, piece: str) -> dict[str, Any]:
    """Seconds of one of :data:`PIECES` and what it has found.

    Args:
        config: with the section ``search``; its proxy is of the last two pieces alone.
        folder: of the data set; ``cold`` leaves its store there.
        piece: its name.
    """
    if piece.startswith("proxy"):
        return _our_search(config, folder / "proxy", piece)
    config = config.replace(**{"search.proxy": {}})
    return {"trainer": _trainer_search, "alone": _trials_alone}.get(piece, _our_search)(
        config, folder, piece
    )


def trainer_seconds(config: Config, folder: Path, num_rows: int) -> float:
    """Of an epoch of the Trainer, from one of a few rows."""
    with _opened(config, folder) as (run, data):
        clock = time.perf_counter()
        _trainer(
            run, data, lambda trial: load_model_of(run.config, run.record.task), 1, num_rows
        ).train()
        return (time.perf_counter() - clock) / num_rows * len(data.train)


def _our_search(config: Config, folder: Path, piece: str) -> dict[str, Any]:
    emptied = folder / ("store" if piece.endswith("cold") else "store/runs")
    shutil.rmtree(emptied, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
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
    report = conductor.report()
    best = report.best_row
    assert best is not None
    score = best.score
    if report.proxy:
        score = _train_alone(conductor.winner()).score
    taken = clock.read()
    _, winner = complete_run(conductor.winner())
    return {
        **taken,
        "validation": score,
        "test": winner.main_score,
        "values": best.values,
        "pruned": sum(row.state == "pruned" for row in report.trials),
        "report": json.loads(report.model_dump_json(by_alias=True)),
    }


def _trials_alone(config: Config, folder: Path, piece: str) -> dict[str, Any]:
    """The trials of the cold search, to the epoch to which they came there, nothing shared."""
    cold = json.loads((folder / "cold.json").read_text())
    report = SearchReport.model_validate(cold["report"])
    taken, scores = {"seconds": 0.0, "processor_seconds": 0.0}, []
    for row in report.trials:
        shutil.rmtree(folder / "alone", ignore_errors=True)
        one = trial_config(_stored(config, folder / "alone"), row.values)
        clock = _Clock()
        member = _train_alone(one.replace(**{"cache.share": False}), len(row.epochs))
        taken = {name: taken[name] + value for name, value in clock.read().items()}
        scores.append(member.score)
    return {**taken, "validation": max(filter(None, scores)), "scores": scores}


def _train_alone(config: Config, most_epochs: float = math.inf) -> MemberRow:
    """A run, to its end or so many epochs, without its test."""
    storage, score = Storage(config.store), config.main_score
    return train_member(
        config, storage, score, None, None, lambda member: len(member.epochs) < most_epochs
    )


def _trainer_search(config: Config, folder: Path, piece: str) -> dict[str, Any]:
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
