"""Any Hugging Face model seen as embeddings, a row of blocks, and a head.

No model code is edited or copied: the model's own ``forward`` runs every time, with some blocks
told for the moment to hand through what they get. So masks, positions and pooling are always the
model's own. Which modules are the blocks is found by :mod:`afcore.model.finders`.

* **prefix**: the part with the blocks runs, those from the boundary on handing through; what the
  last frozen block puts out is caught.
* **suffix**: the whole model runs with the frozen blocks handing out the given hidden states, and
  the last block computed only at the position that the head reads
  (:mod:`afcore.model.pooled_block`).

Hidden states are named tensors, [b, s, h] each: what the blocks transform, and what else they hand
on with a row at every position. What they hand on that is the same for all batches of a shape
(T5's bias of positions) is not among them: block 0 makes it anew, from a single example.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from afcore.errors import ModelError
from afcore.model.find_pooling import find_pooling
from afcore.model.finders.find_stack import find_stack
from afcore.model.forwards import (
    Batch,
    Forward,
    Hidden,
    evaluating,
    first_output,
    logits_of,
    replaced_forwards,
    taken_by,
)
from afcore.model.layer_drop import block_skipper
from afcore.model.pooled_block import PooledBlock
from afcore.model.probing import probing_batch
from afcore.model.stacks import HIDDEN_STATES, ModelStructure, Pooling, Stack

__all__ = ["EMBEDDINGS", "HEAD", "Batch", "Hidden", "SplitModel", "adapter_part", "block_part"]

EMBEDDINGS = "embeddings"
HEAD = "head"
_CHECKPOINTED = "gradient_checkpointing"  # of a block of Transformers
_ADAPTER = "adapter."
_LORA = ".lora_"  # how PEFT calls what it adds to a layer ...
_BASE_LAYER = ".base_layer."  # ... and the layer itself


def block_part(index: int) -> str:
    """Name of the part that is block ``index``."""
    return f"block.{index:03d}"


def adapter_part(index: int) -> str:
    """Name of the part that is the adapters of block ``index``."""
    return _ADAPTER + block_part(index)


class SplitModel:
    """A model with its blocks found.

    Every parameter and buffer belongs to one part: ``embeddings`` (what runs before block 0),
    ``block.NNN``, or ``head`` (the rest). What :mod:`afcore.model.adapters` added to a block is
    ``adapter.block.NNN``; then the **base**, embeddings and the blocks' own weights, never trains.

    Args:
        model: a ``PreTrainedModel`` with a head, whose blocks run one after the other.
        pool: compute the last block only at the position that the head reads, where that can be.
        structure: what was found of it before; None: find it now.
        batch: to find it with: two examples of one length; None: made up.

    Attributes:
        structure: of the model.
        pooled: the last block at one position; None where it is computed whole.

    Raises:
        ModelError: when no row of blocks is found, or parts share parameters.
    """

    def __init__(
        self,
        model: Any,
        pool: bool = True,
        *,
        structure: ModelStructure | None = None,
        batch: Batch | None = None,
    ) -> None:
        self.model = model
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        batch = batch if structure or batch else probing_batch(model)
        stack = structure.stack if structure else find_stack(model, batch or {})
        modules = dict(model.named_modules())
        self.blocks: list[nn.Module] = [modules[name] for name in stack.blocks]
        self._stack = stack
        self._body = modules[stack.body]
        self._before = [modules[name] for name in stack.before if name not in stack.again]
        self._entry = modules[stack.entry] if stack.entry is not None else None
        self._skipper = block_skipper(model, stack.blocks)
        self._arguments = inspect.signature(self.blocks[0].forward)
        self.part_of = _parts(model, stack)
        if structure is None:
            found: tuple[Pooling | None, str] = (None, "turned off")
            if pool:
                found = find_pooling(model, self.blocks[-1], self._as_block_output, batch or {})
            structure = ModelStructure(stack, *found)
        self.structure = structure
        pooling = structure.pooling
        self.pooled = None if pooling is None else PooledBlock(self.blocks[-1], pooling)

    @property
    def pooled_reason(self) -> str:
        """The position that the head reads, or why the last block is computed whole."""
        return self.structure.pooling_reason

    @property
    def widths(self) -> dict[str, int]:
        """Of each of the hidden states, ``h``."""
        return self._stack.widths

    @property
    def unsplittable(self) -> str | None:
        """Why prefix and suffix cannot be run apart, as far as that was seen."""
        return self._stack.unsplittable

    @property
    def num_blocks(self) -> int:
        """L."""
        return len(self.blocks)

    @property
    def parts(self) -> list[str]:
        """Names of all parts, bottom first."""
        of_blocks = ((block_part(i), adapter_part(i)) for i in range(self.num_blocks))
        known = set(self.part_of.values())
        adapted = (part for pair in of_blocks for part in pair[: 1 + (pair[1] in known)])
        return [EMBEDDINGS, *adapted, HEAD]

    @property
    def base_parts(self) -> list[str]:
        """Names of the parts that adapters train instead of: none without adapters."""
        if not any(part.startswith(_ADAPTER) for part in self.part_of.values()):
            return []
        return [part for part in self.parts if part != HEAD and not part.startswith(_ADAPTER)]

    def part_parameters(self, *parts: str) -> dict[str, nn.Parameter]:
        """Parameters of these parts by their names in the whole model."""
        return {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if self.part_of[name] in parts
        }

    def part_tensors(self, part: str) -> dict[str, Tensor]:
        """What of one part is saved: parameters and persistent buffers, sharing memory.

        The names are those that they have without adapters.
        """
        return {
            name.replace(_BASE_LAYER, "."): tensor
            for name, tensor in self.model.state_dict().items()
            if self.part_of.get(name) == part
        }

    def frozen_parts(self, boundary: int) -> list[str]:
        """Names of the parts below the boundary ``k``: none at 0, else embeddings and blocks."""
        if not boundary:
            return []
        below = {EMBEDDINGS, *(block_part(i) for i in range(boundary))}
        return [part for part in self.parts if part.removeprefix(_ADAPTER) in below]

    def frozen_modules(self, boundary: int) -> list[nn.Module]:
        """What runs below the boundary ``k``, and only there."""
        return [*self._before, *self.blocks[:boundary]] if boundary else []

    def set_training(self, boundary: int) -> None:
        """Train mode above the boundary; below it eval mode, no gradients, none left over.

        With adapters, the base has no gradients above it either.
        """
        self.model.train()
        frozen = {*self.frozen_parts(boundary), *self.base_parts}
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self.part_of[name] not in frozen)
            if not parameter.requires_grad:
                parameter.grad = None
        self.evaluate_frozen(boundary)

    def evaluate_frozen(self, boundary: int) -> None:
        """Eval mode for what runs below the boundary, and only there."""
        for module in self.frozen_modules(boundary):
            module.eval()
        if boundary and self._skipper is not None:
            # It would skip blocks that hand out hidden states as well as others.
            self._skipper.training = False

    def checkpoint_blocks(self, wanted: bool) -> None:
        """Whether blocks that train keep only what goes into them (arXiv 1604.06174).

        Transformers' own way, which draws the same dropout again; frozen blocks keep nothing. The
        last block is not among them where it runs at one position: what it keeps there is little,
        and on the way back nobody would tell it to.
        """
        if wanted:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
            if self.pooled is not None:
                setattr(self.blocks[-1], _CHECKPOINTED, False)
        elif getattr(self.model, "is_activation_checkpointing", False):
            self.model.activation_checkpointing_disable()

    def hidden(
        self,
        batch: Batch,
        stop: int,
        start: int = 0,
        hidden: Hidden | None = None,
        rounding: Callable[[Tensor], Tensor] | None = None,
    ) -> Hidden:
        """Run blocks ``start..stop - 1`` (and the embeddings, from 0).

        Args:
            batch: what the model takes.
            stop: at least ``max(1, start)``; equal to ``start`` gives ``hidden`` back.
            start: 0, or the boundary that ``hidden`` is of.
            hidden: what the blocks below ``start`` put out.
            rounding: of what each block puts out; None: none.

        Returns:
            Hidden states at boundary ``stop``, in the blocks' own dtype or rounding's.
        """
        if start and start == stop:
            assert hidden is not None
            return hidden
        caught: dict[str, Tensor] = {}

        def catch(_module: nn.Module, _args: Any, output: Any) -> None:
            caught.update(self._named(output))

        def round_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            assert rounding is not None
            rounded = {name: rounding(values) for name, values in self._named(output).items()}
            return self._with(output, rounded)

        with ExitStack() as stack:
            # All of it: what holds the blocks may skip some (layerdrop) or mask what they get.
            stack.enter_context(evaluating(self._body))
            for block in self.blocks[start:stop] if rounding else []:
                stack.callback(block.register_forward_hook(round_output).remove)
            below = self._handing_out(range(start), hidden)
            above = self._handing_out(range(stop, self.num_blocks), None)
            stack.enter_context(replaced_forwards(below | above))
            handle = self.blocks[stop - 1].register_forward_hook(catch)
            stack.callback(handle.remove)
            self._body(**taken_by(self._body, batch))
        return caught

    def logits(self, batch: Batch, start: int = 0, hidden: Hidden | None = None) -> Tensor:
        """Run everything from boundary ``start`` on.

        Args:
            batch: what the model takes.
            start: 0 for the whole model, or the boundary that ``hidden`` is of.
            hidden: at that boundary.

        Returns:
            Float32, of a model in float64 as it is; [b, c] of a classifier.
        """
        below = self._handing_out(range(start), hidden)
        with replaced_forwards(below | self._at_pooled_position(batch)):
            logits = logits_of(self.model(**batch))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _handing_out(self, indices: range, hidden: Hidden | None) -> dict[nn.Module, Forward]:
        """Forwards of blocks that give ``hidden`` for their output; without it, their input.

        With it, the module that feeds block 0 gives it too, so that it costs nothing.
        """
        outputs = self._stack.outputs
        make = self.blocks[0].forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if len(outputs) == 1:
                given = {HIDDEN_STATES: args[0] if args else kwargs[HIDDEN_STATES]}
            else:
                given = self._given(args, kwargs)
            return self._output_of({**given, **(hidden or {})})

        def forward_first(*args: Any, **kwargs: Any) -> Any:
            """Beside the hidden states, what is the same for all examples, made from one."""
            count = len(args[0] if args else kwargs[HIDDEN_STATES])
            if not self._stack.remade_from_all:
                args = tuple(_of_one(value, count) for value in args)
                kwargs = {name: _of_one(value, count) for name, value in kwargs.items()}
            with torch.no_grad():
                made = make(*args, **kwargs)
            named = {name: made[outputs[name]] for name in outputs}
            return self._output_of({**named, **(hidden or {})})

        forwards = {self.blocks[i]: forward for i in indices}
        if hidden is not None and len(outputs) > len(self.widths):
            forwards[self.blocks[0]] = forward_first
        if hidden is not None and self._entry is not None:
            # What block 0 would get is not looked at: the embeddings need not be computed.
            forwards[self._entry] = lambda *_args, **_kwargs: hidden[HIDDEN_STATES]
        return forwards

    def _at_pooled_position(self, batch: Batch) -> dict[nn.Module, Forward]:
        """The last block's forward, where it need not be computed whole."""
        if self.pooled is None:
            return {}
        forward = self.pooled.at(self.pooled.positions(batch))
        return {self.blocks[-1]: lambda *args, **kw: self._as_block_output(forward(*args, **kw))}

    def _given(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """What a block gets of what blocks hand on, by name."""
        given = self._arguments.bind(*args, **kwargs).arguments
        first = next(iter(given.values()))
        return {name: given.get(name) for name in self._stack.outputs} | {HIDDEN_STATES: first}

    def _named(self, output: Any) -> dict[str, Tensor]:
        """The hidden states of what a block put out."""
        if self._stack.num_outputs is None:
            return {HIDDEN_STATES: first_output(output)}
        return {name: output[self._stack.outputs[name]] for name in self.widths}

    def _with(self, output: Any, hidden: Hidden) -> Any:
        """What a block put out, with other hidden states."""
        if self._stack.num_outputs is None:
            return hidden[HIDDEN_STATES]
        outputs = list(output)
        for name, values in hidden.items():
            outputs[self._stack.outputs[name]] = values
        return tuple(outputs)

    def _output_of(self, named: Mapping[str, Any]) -> Any:
        """As a block puts it out: in some architectures a tuple, hidden states first."""
        return self._with([None] * (self._stack.num_outputs or 1), named)

    def _as_block_output(self, hidden: Tensor) -> Any:
        return self._output_of({HIDDEN_STATES: hidden})


def _of_one(value: Any, count: int) -> Any:
    """Of an argument of a block, what belongs to the first of ``count`` examples."""
    if isinstance(value, tuple):
        return tuple(_of_one(part, count) for part in value)
    is_theirs = isinstance(value, Tensor) and value.ndim and len(value) == count
    return value[:1] if is_theirs else value


def _parts(model: Any, stack: Stack) -> dict[str, str]:
    named = dict(model.named_parameters())
    modules = dict(model.named_modules())
    owners: dict[int, str] = {id(named[name]): EMBEDDINGS for name in stack.embeddings}
    buffers: dict[int, str] = {
        id(buffer): EMBEDDINGS for name in stack.before for buffer in modules[name].buffers()
    }
    for index, name in enumerate(stack.blocks):
        part = block_part(index)
        buffers |= {id(buffer): part for buffer in modules[name].buffers()}
        for parameter in modules[name].parameters():
            if owners.setdefault(id(parameter), part) != part:
                raise ModelError(
                    f"{type(model).__name__}: {owners[id(parameter)]} and {part} share weights, "
                    "so one cannot be frozen without the other. Choose another model."
                )
    parts = {name: owners.get(id(p), HEAD) for name, p in named.items()}
    parts |= {
        name: _ADAPTER + part
        for name, part in parts.items()
        if _LORA in name and part not in (EMBEDDINGS, HEAD)
    }
    return parts | {name: buffers.get(id(b), HEAD) for name, b in model.named_buffers()}
