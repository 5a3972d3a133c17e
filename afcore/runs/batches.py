"""Which examples a run trains on in which step, and how long it lasts."""

import math

import numpy as np
import numpy.typing as npt

from afcore.config import TrainingConfig
from afcore.data.examples import Examples
from afcore.data.order import epoch_batches
from afcore.runs.run import Run
from afcore.training.schedule import Schedule

__all__ = ["batches_of", "training_schedule"]


def batches_of(run: Run, examples: Examples, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Of epoch ``epoch``, where memory holds what it reads."""
    config = run.config
    whole = epoch_batches(
        examples.lengths,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        epoch=epoch,
        batching=config.data.batching,
    )
    return whole[: training_schedule(config.training, len(examples)).steps_in(epoch)]


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
    )
