"""A small batch to try a model on, made from its configuration alone."""

from typing import Any

import torch
from torch import Tensor

from afcore.errors import ModelError
from afcore.model.forwards import Batch

__all__ = ["padded_batch", "probing_batch"]


def probing_batch(model: Any) -> Batch:
    """Two examples of one length, of the kind that the model takes.

    Raises:
        ModelError: when it takes something that cannot be made up.
    """
    device, config, name = next(model.parameters()).device, model.config, model.main_input_name
    if name == "input_ids":
        ids = torch.tensor([[1, 2, 3, 4], [4, 2, 1, 3]], device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pictures = getattr(config, "vision_config", config)  # of its own where text is read too: CLIP
    if name == "pixel_values" and isinstance(getattr(pictures, "image_size", None), int):
        shape = (2, pictures.num_channels, pictures.image_size, pictures.image_size)
        return {name: torch.linspace(-1, 1, torch.Size(shape).numel(), device=device).view(shape)}
    if name == "input_values" and hasattr(config, "conv_kernel"):
        waves = torch.linspace(-1, 1, 2 * _num_samples(config, 4), device=device).view(2, -1).sin()
        return {name: waves, "attention_mask": torch.ones_like(waves, dtype=torch.long)}
    given: dict[str, Tensor] = model.dummy_inputs
    if name not in given:
        raise ModelError(
            f"{type(model).__name__} takes {name}, of which none can be made up to try it on. "
            "Give a batch of two examples."
        )
    return {key: values.to(device) for key, values in given.items()}


def _num_samples(config: Any, num_frames: int) -> int:
    """Samples of sound of which the convolutions before the blocks make so many frames."""
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        num_frames = (num_frames - 1) * stride + kernel
    return num_frames


def padded_batch(pad_token_id: int, device: torch.device) -> Batch:
    """[4, 6]: full; padded; one that ends in the padding's token as a word; a single token."""
    words = [token for token in range(1, 8) if token != pad_token_id][:6]
    lengths = (6, 4, 5, 1)
    rows = [words[:length] + [pad_token_id] * (6 - length) for length in lengths]
    rows[2][4] = pad_token_id
    columns = torch.arange(6)
    return {
        "input_ids": torch.tensor(rows, device=device),
        "attention_mask": torch.stack([(columns < n).long() for n in lengths]).to(device),
    }
