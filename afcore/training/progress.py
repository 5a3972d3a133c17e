"""How far an epoch is, every few seconds: a line in the log, and whoever watches is told."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from afcore.training.trained import StepLog, TrainingState

__all__ = ["EpochProgress", "Progress", "watch_progress"]

_SECONDS = 5.0
_AVERAGED_STEPS = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """A moment of an epoch.

    Attributes:
        epoch: its number, from 1.
        num_epochs: of the training at most.
        step: of the epoch, from 1.
        num_steps: of the epoch.
        total_step: of the training.
        loss: mean of the last steps that were read; NaN before.
        boundary: frozen blocks.
        num_blocks: of the model.
        seconds_left: of the epoch, at the speed until now.
        time: seconds since the epoch, UTC.
    """

    epoch: int
    num_epochs: int
    step: int
    num_steps: int
    total_step: int
    loss: float
    boundary: int
    num_blocks: int
    seconds_left: float
    time: float


@contextlib.contextmanager
def watch_progress(watch: Callable[[Progress], None]) -> Iterator[None]:
    """Have ``watch`` called while an epoch is trained; it must return at once.

    A moment travels with its log record (level INFO), so that those of the first worker, whose
    records come from another process, are seen too.
    """
    handler = _Watching(watch)
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)


class _Watching(logging.Handler):
    def __init__(self, watch: Callable[[Progress], None]) -> None:
        super().__init__()
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        self._watch(record.progress)  # type: ignore[attr-defined]


class EpochProgress:
    """Says when a line is due, and writes it.

    Args:
        epoch: its number.
        num_epochs: of the training.
        num_steps: of the epoch.
        first: steps of it that were done before.
    """

    def __init__(self, epoch: int, num_epochs: int, num_steps: int, first: int) -> None:
        self._epoch = epoch
        self._num_epochs = num_epochs
        self._num_steps = num_steps
        self._first = first
        self._began = self._shown = time.monotonic()

    def is_due(self) -> bool:
        """Whether some seconds have passed since the last one."""
        return time.monotonic() - self._shown > _SECONDS

    def show(
        self, number: int, steps: list[StepLog], state: TrainingState, num_blocks: int
    ) -> None:
        """After step ``number`` of the epoch."""
        self._shown = time.monotonic()
        losses = [step.loss for step in steps[-_AVERAGED_STEPS:]]
        seconds = self._shown - self._began
        progress = Progress(
            self._epoch,
            self._num_epochs,
            number,
            self._num_steps,
            state.step,
            float(np.mean(losses)) if losses else math.nan,
            state.freeze.boundary,
            num_blocks,
            seconds / (number - self._first) * (self._num_steps - number),
            time.time(),
        )
        _log.info(
            "epoch %d/%d  step %d/%d  loss %.3f  boundary %d of %d  %.0f s left of this epoch",
            *(progress.epoch, progress.num_epochs, number, self._num_steps, progress.loss),
            *(progress.boundary, num_blocks, progress.seconds_left),
            extra={"progress": progress},
        )
