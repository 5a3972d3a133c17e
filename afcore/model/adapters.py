"""LoRA (arXiv 2106.09685) on the blocks of a model: added, merged into the weights, or saved.

The layers are those of PEFT, which is an optional package and imported when it is needed. They are
put into the blocks that train; where a block has them, its own weights and the embeddings never
train again, and the head does whole. The boundary treats a block's adapters as the block. A block
that is frozen from the start has none, so a set of its hidden states is everybody's.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from afcore.errors import ConfigError, ModelError
from afcore.extras import require_package
from afcore.model.split_model import HEAD, SplitModel, adapter_part, block_part

__all__ = [
    "LoraSettings",
    "adapted_blocks",
    "add_adapters",
    "check_targets",
    "merge_adapters",
    "save_adapters",
]

_LINEAR = (nn.Linear, Conv1D)  # and no subclass: attention of torch's own reads weights past them
_BASE_LAYER = ".base_layer"  # PEFT's name of a layer within one that is adapted
_NAME = "default"  # PEFT's, of a model's first adapter


@dataclass(frozen=True)
class LoraSettings:
    """Of every adapted layer.

    Attributes:
        rank: of the addition.
        alpha: the addition is scaled by ``alpha / rank``.
        dropout: rate, on what the addition reads.
        target_modules: ends of the names of linear layers; None: all.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    target_modules: Sequence[str] | None = None


def add_adapters(
    split: SplitModel, settings: LoraSettings, blocks: Iterable[int], seed: int
) -> SplitModel:
    """Add to the linear layers of some blocks what changes nothing yet.

    Args:
        split: its model is changed in place.
        settings: of the additions.
        blocks: their numbers; those that have adapters keep them.
        seed: a block's first values depend on it and the block alone, not on when they are drawn.

    Returns:
        The model with what was added among its parts.

    Raises:
        ConfigError: when PEFT is not installed, or no layer is called as wanted.
        ModelError: when PEFT does not know a layer.
    """
    require_package("peft", "adapter")
    from peft import inject_adapter_in_model

    layers = [name for index in range(split.num_blocks) for name in _linear_layers(split, index)]
    check_targets(split.model, layers, settings.target_modules or ())
    known = set(adapted_blocks(split))
    for index in sorted(set(blocks) - known):
        config = _peft_config(split, settings, _targets(split, index, settings))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + (index << 32))
            try:
                inject_adapter_in_model(config, split.model, _NAME)
            except ValueError as error:
                raise ModelError(
                    f"{type(split.model).__name__}: {' '.join(str(error).split())}. Name other "
                    "layers in adapter.target_modules"
                ) from error
        # It says what was added last, which the next addition would take for another adapter.
        vars(split.model).pop("peft_config", None)
    return SplitModel(split.model, structure=split.structure)


def adapted_blocks(split: SplitModel) -> list[int]:
    """Numbers of the blocks that have adapters."""
    return [i for i in range(split.num_blocks) if adapter_part(i) in split.parts]


def merge_adapters(split: SplitModel) -> SplitModel:
    """The plain model with the additions in its weights; changed in place."""
    if not adapted_blocks(split):
        return split
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(split.model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, leaf = name.rpartition(".")
            setattr(split.model.get_submodule(parent), leaf, layer.get_base_layer())
    return SplitModel(split.model, structure=split.structure)


def save_adapters(split: SplitModel, settings: LoraSettings, base: str, folder: Path) -> None:
    """Write adapters and head as PEFT does: ``PeftModel.from_pretrained(model, folder)``.

    Args:
        split: with adapters.
        settings: of them.
        base: name of the model without them.
        folder: is made.

    Raises:
        ModelError: when a parameter of the head belongs to no module of the head.
    """
    targets = [name for index in adapted_blocks(split) for name in _adapted_layers(split, index)]
    head = list(_head_modules(split, split.model, ""))
    below = tuple(f"{name}." for name in head)
    lost = [name for name in split.part_parameters(HEAD) if not name.startswith(below)]
    if lost:
        raise ModelError(
            f"{type(split.model).__name__}: PEFT saves whole modules, and {lost[0]} is in none "
            "that is only the head's"
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in split.model.state_dict().items():
        if name.startswith(below) or split.part_of.get(name, "").startswith("adapter."):
            saved = name.replace(f".{_NAME}.", ".") if not name.startswith(below) else name
            tensors[f"base_model.model.{saved}"] = tensor.detach().cpu().contiguous().clone()
    folder.mkdir(parents=True, exist_ok=True)
    config = _peft_config(split, settings, targets, modules_to_save=head, inference_mode=True)
    config.base_model_name_or_path = base
    config.target_modules = sorted(targets)  # made a set, it would be written otherwise each time
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft_config(split: SplitModel, settings: LoraSettings, targets: list[str], **more: Any) -> Any:
    from peft import LoraConfig

    layers = [split.model.get_submodule(name) for name in targets]
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(getattr(one, "base_layer", one), Conv1D) for one in layers),
        **more,
    )


def _targets(split: SplitModel, index: int, settings: LoraSettings) -> list[str]:
    """Names of the layers of a block that are to be adapted."""
    names = _linear_layers(split, index)
    if settings.target_modules is None:
        wanted = names
    else:
        ends = tuple(f".{end}" for end in settings.target_modules)
        wanted = [name for name in names if name.endswith(ends)]
    if not wanted:
        there = sorted({name.rpartition(".")[2] for name in names})
        raise ConfigError(
            f"adapter.target_modules: {block_part(index)} of {type(split.model).__name__} has no "
            f"such linear layer; it has {', '.join(there) or 'none'}"
        )
    return wanted


def _linear_layers(split: SplitModel, index: int) -> list[str]:
    """Names of a block's, also of those that are adapted already."""
    prefix = f"{split.structure.stack.blocks[index]}."
    return [
        prefix + name.removesuffix(_BASE_LAYER)
        for name, layer in split.blocks[index].named_modules()
        if type(layer) in _LINEAR
    ]


def check_targets(model: nn.Module, layers: Sequence[str], targets: Iterable[str]) -> None:
    """Refuse names of layers that nothing has, though others of them may be right.

    Args:
        model: that is to be adapted.
        layers: names of those that can be.
        targets: names, or their ends.

    Raises:
        ConfigError: when there is such a name.
    """
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            there = sorted({name.rpartition(".")[2] for name in layers})
            raise ConfigError(
                f"adapter.target_modules: {target!r}: {type(model).__name__} has no such linear "
                f"layer; it has {', '.join(there) or 'none'}"
            )


def _adapted_layers(split: SplitModel, index: int) -> list[str]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefix = f"{split.structure.stack.blocks[index]}."
    return [
        prefix + name
        for name, layer in split.blocks[index].named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]


def _head_modules(split: SplitModel, module: nn.Module, name: str) -> Iterator[str]:
    """The largest modules that have parameters of the head, and no others."""
    prefix = f"{name}." if name else ""
    parts = {split.part_of.get(prefix + inner) for inner, _ in module.named_parameters()}
    if parts == {HEAD} and name:
        yield name
    elif HEAD in parts:
        for leaf, child in module.named_children():
            yield from _head_modules(split, child, prefix + leaf)
