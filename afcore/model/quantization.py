"""Blocks below the boundary with the weights of their linear layers in 8 or 4 bits.

Of a device's memory they take a quarter, or an eighth, of what fp32 takes. bitsandbytes keeps the
numbers: 8 bit with one scale a row, as LLM.int8 (arXiv 2208.07339), 4 bit as QLoRA's NF4 (arXiv
2305.14314). A layer's weights are computed back whenever it runs, and applied in the run's own
precision. Paper: LLM.int8 rounds what a layer reads, too, but for columns that are outliers in the
batch. Here: weights alone, because what a prefix puts out must depend on the example only.

The model's own weights stay as they are, in host memory: by them sets and parts are named, stored
and published, and they train when their block thaws.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from afcore.errors import ConfigError
from afcore.extras import require_package
from afcore.model.split_model import SplitModel

__all__ = ["Quantization", "check_quantization", "place_model", "quantized_blocks"]

Quantization = Literal["8bit", "4bit"]

_LINEAR = (nn.Linear, Conv1D)  # and no subclass: attention of torch's own reads weights past them
_FORWARD = "forward"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _QuantizedForward:
    """A linear layer's, by other weights than its own.

    Attributes:
        layer: whose bias is added.
        weight: gives [out, in], computed back.
    """

    layer: Any
    weight: Callable[[], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return nn.functional.linear(inputs, self.weight(), self.layer.bias)


def check_quantization(kind: Quantization, device: torch.device) -> None:
    """Make sure, before anything is loaded, that a device can do it.

    Raises:
        ConfigError: when bitsandbytes is not installed, or does not run there.
    """
    require_package("bitsandbytes", f"model.quantization: {kind}")
    try:
        _quantized(torch.eye(64, device=device), kind)()
    except Exception as error:  # of the package's libraries, whatever they raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"model.quantization: {kind} does not run on {device} with this bitsandbytes: {said}. "
            "Install one that fits, or leave it out"
        ) from error


def place_model(
    split: SplitModel, device: torch.device, boundary: int = 0, kind: Quantization | None = None
) -> SplitModel:
    """Put the model on the device, with the blocks below the boundary quantized.

    Called again with another boundary, blocks above it get their own weights back.

    Args:
        split: its model is changed in place; all its weights are somewhere.
        device: where it is to run.
        boundary: blocks that are frozen.
        kind: None: none is quantized, whatever the boundary.
    """
    layers = _linear_layers(split.blocks[:boundary]) if kind else []
    for module in {*filter(_is_quantized, split.model.modules())} - {*layers}:
        delattr(module, _FORWARD)
    stay = {id(layer.weight) for layer in layers}
    for tensor in (*split.model.parameters(), *split.model.buffers()):
        if id(tensor) not in stay:
            tensor.data = tensor.data.to(device)
    new = [layer for layer in layers if not _is_quantized(layer)]
    for layer in new:
        assert kind is not None
        weight = layer.weight.detach().to(device)
        weight = weight.T if isinstance(layer, Conv1D) else weight
        setattr(layer, _FORWARD, _QuantizedForward(layer, _quantized(weight.contiguous(), kind)))
    if new:
        num_bytes = sum(layer.weight.nbytes for layer in new)
        _log.info(
            "prefix: %d linear layers (%.1f MB) of blocks 0-%d in %s",
            *(len(new), num_bytes / 1e6, boundary - 1, kind),
        )
    return split


def quantized_blocks(split: SplitModel) -> int:
    """How many blocks are quantized; they are the lowest."""
    return sum(any(map(_is_quantized, _linear_layers([block]))) for block in split.blocks)


def _linear_layers(blocks: list[nn.Module]) -> list[Any]:
    return [layer for block in blocks for layer in block.modules() if type(layer) in _LINEAR]


def _is_quantized(module: nn.Module) -> bool:
    return isinstance(vars(module).get(_FORWARD), _QuantizedForward)


def _quantized(weight: Tensor, kind: Quantization) -> Callable[[], Tensor]:
    """What computes a matrix back, which is held in 8 or 4 bits."""
    from bitsandbytes import functional

    if kind == "8bit":
        numbers, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        return lambda: functional.int8_vectorwise_dequant(numbers, scales)
    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    return lambda: functional.dequantize_4bit(packed, state)
