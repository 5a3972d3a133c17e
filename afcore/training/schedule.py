"""How long a training lasts and at which learning rate: a pure function of its steps.

Durations are in epochs and need not be whole: the schedule is compressed to what is asked for, and
the last epoch has the first batches of its order only.

Where training may stop early it runs in **cycles** of some epochs. Each has the whole schedule, so
that at the end of every cycle the rate has fallen to 0 and the model is as good as it will be for
what was spent; another cycle begins at the peak again (warm restarts: SGDR, arXiv 1608.03983). So
whether to go on is asked where the answer means something.

``wsd`` (warm-up, stable, decay: arXiv 2404.06395) stays at the peak until its last share. So its
first epochs are those of a longer training, and a search trains them once for both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """Steps of a training and the factor on its peak learning rate.

    Attributes:
        epochs: passes over the training set, above 0; the last may be a part of one.
        steps_per_epoch: of a whole one, at least 1.
        kind: how the learning rate goes on after the warm-up.
        warmup_ratio: share of all steps with a rising learning rate.
        steps: for ``kind="steps"``: pairs (share of all steps, factor).
        cycle_epochs: epochs of a cycle, at least 1; None: one cycle is all.
        decay_ratio: for ``kind="wsd"``: share of all steps with a falling learning rate.
    """

    epochs: float
    steps_per_epoch: int
    kind: Literal["linear", "constant", "steps", "wsd"] = "linear"
    warmup_ratio: float = 0.0
    steps: Sequence[tuple[float, float]] = ()
    cycle_epochs: int | None = None
    decay_ratio: float = 0.2

    @property
    def num_epochs(self) -> int:
        """Epochs that are begun."""
        return math.ceil(self.epochs)

    @property
    def total_steps(self) -> int:
        """Of the whole training."""
        return math.ceil(round(self.epochs * self.steps_per_epoch, 6))

    def steps_in(self, epoch: int) -> int:
        """Of epoch ``epoch``, counted from 1."""
        return min(self.steps_per_epoch, self.total_steps - (epoch - 1) * self.steps_per_epoch)

    def cycle_share(self, epoch: int) -> float:
        """How much of its cycle is done after epoch ``epoch``, from 1; without cycles, of all."""
        length = self.cycle_epochs or self.num_epochs
        first = (epoch - 1) // length * length
        return (epoch - first) / min(length, self.num_epochs - first)

    def ends_cycle(self, epoch: int) -> bool:
        """Whether the rate has fallen to the schedule's end after epoch ``epoch``, from 1."""
        return self.cycle_share(epoch) == 1.0

    def factor(self, step: int) -> float:
        """On the peak learning rate, for a step counted from 0.

        Within a cycle it rises linearly over ``warmup_ratio`` of its steps; then ``linear`` falls
        to 0 at the end, ``constant`` stays, ``steps`` takes the factor of the last pair that is
        reached, and ``wsd`` stays until the last ``decay_ratio`` of the steps, in which it falls
        linearly to 0 at the end.
        """
        total_steps = self.total_steps
        if self.cycle_epochs is not None:
            cycle_steps = self.cycle_epochs * self.steps_per_epoch
            first = step // cycle_steps * cycle_steps
            step, total_steps = step - first, min(cycle_steps, total_steps - first)
        warmup = round(self.warmup_ratio * total_steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.kind == "linear":
            return (total_steps - step) / max(1, total_steps - warmup)
        if self.kind == "steps":
            return [factor for share, factor in self.steps if step >= share * total_steps][-1]
        if self.kind == "wsd":
            decay = max(1, round(self.decay_ratio * total_steps))
            return min(1.0, (total_steps - step) / decay)
        return 1.0
