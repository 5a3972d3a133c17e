"""The section ``training``: how long, at which rate, and how a step is made."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from afcore.config.section import Section

__all__ = ["TrainingConfig"]


def _ordered_steps(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    starts = [start for start, _ in steps]
    if not steps or starts[0] != 0.0 or starts != sorted(set(starts)) or starts[-1] >= 1.0:
        raise ValueError("shares of the steps must start at 0.0, grow, and stay below 1.0")
    if min(factor for _, factor in steps) < 0:
        raise ValueError("factors must not be negative")
    return steps


class TrainingConfig(Section):
    """Optimization (AdamW)."""

    epochs: float = Field(
        4,
        gt=0,
        description="passes over the training set, the schedule compressed to them; the last may "
        "be a part of one (`0.5`: half of the examples, once)",
    )
    batch_size: int = Field(16, ge=1, description="examples per step, over all workers")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate")
    schedule: Literal["linear", "constant", "steps", "wsd"] = Field(
        "linear",
        description="how the learning rate goes on after the warm-up; `wsd` (warm-up, stable, "
        "decay) stays at the peak and falls in the last `decay_ratio` of the steps, so that "
        "trainings of different lengths have their first epochs in common, which a search trains "
        "once",
    )
    steps: Annotated[list[tuple[float, float]], AfterValidator(_ordered_steps)] = Field(
        [(0.0, 1.0), (0.3, 0.7), (0.6, 0.4)],
        description="for `schedule: steps`: pairs (share of all steps, factor); the default is "
        "the paper's",
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="for `schedule: wsd`: share of all steps in which it falls"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's, not on biases and norms")
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of all steps with a rising learning rate"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradient clipping; 0 turns it off")
    seed: int = Field(0, ge=0, lt=2**31, description="of the head, the order and the dropout")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="`auto`: bf16 autocast where the device computes in it, else fp32"
    )
    compile: bool = Field(
        False,
        description="`torch.compile` the blocks that train, anew at every boundary; needs a C++ "
        "compiler, and draws other dropout than without",
    )
    gradient_checkpointing: bool = Field(
        False,
        description="keep of each block that trains only what goes into it, and compute the block "
        "again in the backward pass: the same numbers, less memory, about a third more time; for "
        "models that Transformers can do it with",
    )
    pooled_last_block: bool = Field(
        True,
        description="compute the last block only at the position that the head reads, where the "
        "model allows it: the same outputs and gradients for less work; false computes it whole, "
        "and draws other dropout",
    )
    augmentation: Literal["flip", "shift"] | None = Field(
        None,
        description="of pictures, drawn anew whenever one is trained on: `flip` (mirrored or not) "
        "or `shift` (that, and moved by up to an eighth); nothing is cached then, as the frozen "
        "blocks put out something else in every epoch",
    )
    stop: Literal["settled", "never"] | None = Field(
        None,
        description="`settled`: the learning rate falls to the end of its schedule every two "
        "epochs, or as many as the policy says (four with the default one), and training stops "
        "there once more would gain too little: `epochs` is the most; "
        "`never`: all of `epochs` in one schedule; default: `settled` where blocks freeze by a "
        "policy that says when (the default one does), else `never`",
    )
    score: str | None = Field(
        None,
        description="the main score, on validation: it chooses the epoch that is published, and "
        "`compare` shows and ranks by it; default: the first of the task's, see [Tasks](#tasks). "
        "For classes of very different sizes `f1_macro` or `matthews`; with F1 and `matthews` a "
        "training that may stop goes on while the loss or the score gains, else the loss alone "
        "decides",
    )

    @property
    def num_epochs(self) -> int:
        """Epochs that are begun."""
        return math.ceil(self.epochs)
