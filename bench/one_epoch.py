"""What benches of one epoch share: options, configuration, and how well it was predicted.

The epoch has a number of blocks frozen from the start and no test; each run of it begins anew.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from afcore.config import Config, load_config
from afcore.results.report import EpochReport
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, record_of
from afcore.runs.run import Run, begin_run, run_lease
from afcore.storage.objects import Storage

HERE = Path(__file__).parent
ACCEPTED = 0.2
"""Largest relative error of an epoch's prediction."""


def parser_of(doc: str, boundaries: str) -> argparse.ArgumentParser:
    """Options: text, size, boundaries, further settings, and where results go."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--train", default="docstrings", help="CSV with the columns text,label")
    parser.add_argument("--limit", type=int, default=600, help="training examples")
    parser.add_argument("--boundaries", default=boundaries)
    parser.add_argument("--set", action="append", default=[], help="further settings")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    return parser


def prepare(
    arguments: argparse.Namespace, name: str, settings: Sequence[str]
) -> tuple[Path, Config]:
    """A new folder for the results, and the configuration, whose store is in it."""
    work = arguments.out.absolute() / time.strftime(f"{name}-%Y%m%d-%H%M%S")
    work.mkdir(parents=True)
    common = [
        f"data.train={arguments.train}",
        "data.test=null",
        f"data.limit={arguments.limit}",
        f"store={work}/store",
        "training.epochs=1",
        "freezing.policy=static",
        "cache.mode=on",
    ]
    return work, load_config(str(HERE / "speed.yaml"), [*common, *settings, *arguments.set])


def train_anew(config: Config, train: Callable[[Run, int], EpochReport]) -> EpochReport:
    """One epoch without orchestration; ``train`` gets the run and the attempt's number."""
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        return train(begin_run(storage, record, fresh=True), lease.number)


def train_all(config: Config) -> tuple[list[EpochReport], list[list[int]]]:
    """A whole training, and the boundary of each step of each epoch."""
    storage = Storage(config.store)
    record = identify_run(config, storage)
    reports, trace = [], []
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record, fresh=True)
        for epoch in range(1, config.training.num_epochs + 1):
            reports.append(run_epoch(run, epoch, lease.number))
            checkpoint = record_of(run, epoch, CheckpointRecord)
            trace.append([step.boundary for step in checkpoint.trained.steps])
            if checkpoint.next is None:
                break
    return reports, trace


def within(rows: Sequence[dict[str, object]]) -> str:
    """How many of the rows were predicted well enough."""
    count = sum(abs(row["error"]) <= ACCEPTED for row in rows)
    return f"{count} of {len(rows)} within {100 * ACCEPTED:.0f} %"
