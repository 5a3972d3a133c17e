"""Which examples a run trains on in which step, and how long it lasts."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.config import TrainingConfig
from afcore.data.examples import Examples
from afcore.data.order import epoch_batches, group_lengths, of_groups, windowed_batches
from afcore.runs.run import Run
from afcore.training.schedule import Schedule

__all__ = ["batches_of", "run_schedule", "training_schedule"]


def batches_of(
    run: Run,
    examples: Examples,
    epoch: int,
    windows: tuple[npt.NDArray[np.int64], int] | None = None,
) -> list[npt.NDArray[np.int64]]:
    """Of epoch ``epoch``.

    Args:
        run: says how they are made.
        examples: the training split.
        epoch: counted from 1.
        windows: [n] shard of each example, and shards in a window; None where memory holds what the
            epoch reads.
    """
    config, size, drawn = run.config, run.record.task.group_size, examples.drawn
    lengths = examples.lengths if drawn is None else examples.lengths[drawn]
    lengths = group_lengths(lengths, size)
    settings: dict[str, Any] = {
        "batch_size": config.training.batch_size,
        "seed": config.training.seed,
        "epoch": epoch,
        "batching": config.data.batching,
    }
    if windows is None:
        whole = epoch_batches(lengths, **settings)
    else:
        shards, window_shards = windows
        shards = (shards if drawn is None else shards[drawn])[::size]
        whole = windowed_batches(lengths, shards, window_shards=window_shards, **settings)
    steps = training_schedule(config.training, len(lengths)).steps_in(epoch)
    batches = [of_groups(groups, size) for groups in whole[:steps]]
    return batches if drawn is None else [drawn[ids] for ids in batches]


def run_schedule(run: Run, examples: Examples) -> Schedule:
    """How long a run on the training split lasts at most, and its learning rate."""
    return training_schedule(
        run.config.training,
        examples.num_trained // run.record.task.group_size,
        cycle_epochs=run.config.cycle_epochs,
    )


def training_schedule(
    training: TrainingConfig, num_examples: int, *, cycle_epochs: int | None = None
) -> Schedule:
    """How long a training on ``num_examples`` lasts, and its learning rate.

    Args:
        training: settings.
        num_examples: to train on.
        cycle_epochs: of a training that may end before its epochs are over.
    """
    return Schedule(
        epochs=training.epochs,
        steps_per_epoch=math.ceil(num_examples / training.batch_size),
        kind=training.schedule,
        warmup_ratio=training.warmup_ratio,
        steps=training.steps,
        cycle_epochs=cycle_epochs,
        decay_ratio=training.decay_ratio,
    )
