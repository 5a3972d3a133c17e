"""What is trained, on what, where, and with whom: one object that goes through all rooms."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from afcore.compute import Compute, HiddenDtype
from afcore.data.examples import Examples
from afcore.distributed import ALONE, WorkerGroup
from afcore.model.split_model import Batch, SplitModel
from afcore.tasks.task import Task

__all__ = ["Trainee"]


@dataclass(frozen=True)
class Trainee:
    """A model with the task that it learns, the examples, and where it computes.

    Attributes:
        split: the model.
        task: says what a batch is, its loss, its scores.
        examples: to train on, to run the prefix over, or to be asked about.
        compute: device and precision.
        dtype: of hidden states at the boundary.
        group: the workers, of which this process is one.
    """

    split: SplitModel
    task: Task
    examples: Examples
    compute: Compute
    dtype: HiddenDtype = "bf16"
    group: WorkerGroup = ALONE

    def on(self, examples: Examples) -> "Trainee":
        """The same, on another split of the data."""
        return replace(self, examples=examples)

    def inputs(self, ids: npt.NDArray[np.int64]) -> Batch:
        """What the model gets of the examples ``ids``, [b], padded, on the device."""
        return self.task.collate(self.examples, ids, self.compute.device)[0]
