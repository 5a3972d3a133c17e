"""What is known of a model's parts: by names, so that a run can record it. No torch.

Found once, on the weights that a run begins with, and read afterwards: what is found by trying
(:mod:`afcore.model.pooled_block`) may come out otherwise on other weights or another machine.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["HIDDEN_STATES", "ModelStructure", "Pooling", "Position", "Stack"]

HIDDEN_STATES = "hidden_states"
"""Name of what the blocks transform; others have the names of the argument that takes them."""

Position = Literal["first", "last", "last but padding"]


@dataclass(frozen=True)
class Stack:
    """Blocks that run one after the other, each fed by the one before: what a finder returns.

    Attributes:
        body: name of the module that is run for the prefix; empty for the whole model.
        blocks: names of the blocks, bottom first.
        embeddings: names of the parameters outside the blocks that block 0's output depends on.
        before: names of the modules that run before block 0.
        again: those of them that run once more later: frozen for the prefix alone.
        entry: name of a module that puts out nothing but what block 0 takes, if there is one.
        num_outputs: of a block's tuple; None where a block puts out the hidden states alone.
        outputs: which of them is what, by name; all are handed on to the next block.
        widths: of the outputs that have a row at every position: hidden states at a boundary.
        remade_from_all: outputs without a width are made anew from all examples, not from one.
        unsplittable: why the blocks cannot be run apart, if they cannot.

    Outputs without a width are the same for all batches of a shape and mask, and made anew by block
    0; or they are what block 0 is given, made above it of the batch in each pass.
    """

    body: str
    blocks: tuple[str, ...]
    embeddings: tuple[str, ...]
    before: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    entry: str | None = None
    num_outputs: int | None = None
    outputs: dict[str, int] = field(default_factory=lambda: {HIDDEN_STATES: 0})
    widths: dict[str, int] = field(default_factory=dict)
    remade_from_all: bool = False
    unsplittable: str | None = None


@dataclass(frozen=True)
class Pooling:
    """How to run a model's last block at one position; layers by their names in the block.

    Attributes:
        position: ``first``; ``last`` that the attention mask shows; or ``last but padding``: the
            last token whose id is not the padding's.
        pad_token_id: of the model.
        idle_first: layers that keys and values of all positions do not depend on.
        idle_second: layers that the output at the one position does not depend on, once keys and
            values are given.
        projections: the layers that make keys and values of the block's input; None where more
            than they does.
    """

    position: Position
    pad_token_id: int | None
    idle_first: tuple[str, ...] = ()
    idle_second: tuple[str, ...] = ()
    projections: tuple[str, str] | None = None


@dataclass(frozen=True)
class ModelStructure:
    """All that was found of a model.

    Attributes:
        stack: its blocks.
        pooling: how its last block is run at the position that the head reads; None: whole.
        pooling_reason: the position, or why there is none.
    """

    stack: Stack
    pooling: Pooling | None
    pooling_reason: str
