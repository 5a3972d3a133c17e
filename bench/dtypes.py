"""What do fewer bytes cost? One static prefix, each ``cache.dtype``, the same batches.

Prints for every dtype the bytes of its activation set, how far the loss of the first step and the
mean loss of the last epoch are from fp32's, and validation loss and accuracy at the end. With more
seeds, means over them.

    python bench/dtypes.py --limit 600 --epochs 2 --seeds 1 --out bench/out
"""

import argparse
import dataclasses
import json
import logging
import statistics
import time
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from afcore.activations.sets import open_set
from afcore.config import Config, load_config
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, plan_of, record_of
from afcore.runs.run import begin_run, run_lease
from afcore.storage.objects import Storage

HERE = Path(__file__).parent
DTYPES = ("fp32", "bf16", "int8")


@dataclasses.dataclass
class Row:
    """One training. ``step_losses`` in the order of the steps."""

    dtype: str
    seed: int
    set_bytes: int
    materialize_seconds: float
    read_seconds: float
    last_epoch_loss: float
    validation_loss: float
    validation_accuracy: float
    step_losses: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", default="docstrings", help="CSV with the columns text,label")
    parser.add_argument("--limit", type=int, default=3000, help="training examples")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--depth", type=int, help="frozen blocks; default half of them")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="further settings")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    work = arguments.out.absolute() / time.strftime("dtypes-%Y%m%d-%H%M%S")
    work.mkdir(parents=True)
    config = load_config(
        str(HERE / "speed.yaml"),
        [
            f"data.train={arguments.train}",
            "data.test=null",
            f"data.limit={arguments.limit}",
            f"training.epochs={arguments.epochs}",
            "freezing.policy=static",
            f"freezing.depth={'null' if arguments.depth is None else arguments.depth}",
            "cache.mode=on",
            f"store={work}/store",
            *arguments.set,
        ],
    )
    rows = [
        train(config.replace(**{"cache.dtype": dtype, "training.seed": seed}))
        for seed in range(arguments.seeds)
        for dtype in DTYPES
    ]
    (work / "dtypes.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows]))
    figure(rows).savefig(work / "dtypes.png", dpi=150)
    console = Console(width=140)
    console.print(table(rows))
    console.print(f"{work}/dtypes.json, dtypes.png")


def train(config: Config) -> Row:
    """All epochs, with neither flow nor tracking around them."""
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        run = begin_run(storage, record)
        numbers = range(1, config.training.num_epochs + 1)
        reports = [run_epoch(run, epoch, lease.number) for epoch in numbers]
    checkpoints = [record_of(run, epoch, CheckpointRecord) for epoch in numbers]
    found = open_set(storage, plan_of(run, numbers[-1]).read_from.folder)
    last = reports[-1]
    return Row(
        dtype=config.cache.dtype,
        seed=config.training.seed,
        set_bytes=found.manifest.num_bytes,
        materialize_seconds=sum(done.materialize_seconds for done in reports),
        read_seconds=last.read_seconds,
        last_epoch_loss=last.train_loss,
        validation_loss=last.validation["loss"],
        validation_accuracy=last.validation["accuracy"],
        step_losses=[step.loss for checkpoint in checkpoints for step in checkpoint.trained.steps],
    )


def table(rows: list[Row]) -> Table:
    """Means over seeds; differences are taken seed by seed."""
    result = Table(title="Bytes and what they cost", title_justify="left")
    for column in (
        "dtype",
        "MB",
        "built in s",
        "read in s, last epoch",
        "first loss - fp32's",
        "last epoch's loss - fp32's",
        "validation loss",
        "validation accuracy",
    ):
        result.add_column(column)
    exact = {row.seed: row for row in rows if row.dtype == "fp32"}
    for dtype in DTYPES:
        mine = [row for row in rows if row.dtype == dtype]
        first = [row.step_losses[0] - exact[row.seed].step_losses[0] for row in mine]
        last = [row.last_epoch_loss - exact[row.seed].last_epoch_loss for row in mine]
        result.add_row(
            dtype,
            f"{mine[0].set_bytes / 1e6:.1f}",
            f"{max(row.materialize_seconds for row in mine):.1f}",
            f"{statistics.mean(row.read_seconds for row in mine):.2f}",
            f"{statistics.mean(first):+.5f}",
            f"{statistics.mean(last):+.5f}",
            f"{statistics.mean(row.validation_loss for row in mine):.4f}",
            f"{100 * statistics.mean(row.validation_accuracy for row in mine):.2f} %",
        )
    return result


def figure(rows: list[Row]) -> Figure:
    """How far each step's loss is from fp32's, first seed."""
    result = Figure(figsize=(8, 3.5), layout="constrained")
    axes = result.subplots()
    exact, *others = [row for row in rows if row.seed == rows[0].seed]
    for row in others:
        apart = [
            abs(loss - base) for loss, base in zip(row.step_losses, exact.step_losses, strict=True)
        ]
        axes.plot(
            range(1, len(apart) + 1), apart, label=f"{row.dtype}, {row.set_bytes / 1e6:.0f} MB"
        )
    axes.set_title(f"Against fp32, {exact.set_bytes / 1e6:.0f} MB")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, absolute difference")
    axes.set_yscale("log")
    axes.legend()
    return result


if __name__ == "__main__":
    main()
