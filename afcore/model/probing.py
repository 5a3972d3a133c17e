"""A small batch to try a model on, made from its configuration alone."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from afcore.errors import ModelError
from afcore.model.forwards import Batch

__all__ = ["padded_batch", "probing_batch", "varied_batch"]

_FEW_WORDS = 1000


def probing_batch(model: Any) -> dict[str, Tensor]:
    """Two examples of one length, of the kind that the model takes.

    Raises:
        ModelError: when it takes something that cannot be made up.
    """
    device, config, name = next(model.parameters()).device, model.config, model.main_input_name
    if name == "input_ids":
        ids = torch.tensor([[1, 2, 3, 4], [4, 2, 1, 3]], device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | _places(model, ids)
    if name == "pixel_values" and (shape := _pictures(model)) is not None:
        return {name: _numbers(model, shape)}
    if name == "input_values" and hasattr(config, "conv_kernel"):
        waves = _numbers(model, (2, _num_samples(config, 4))).sin()
        return {name: waves, "attention_mask": torch.ones_like(waves, dtype=torch.long)}
    if (shape := _spectrum(config, name)) is not None:
        return {name: _numbers(model, shape)}
    given: dict[str, Tensor] = model.dummy_inputs
    if name not in given:
        raise ModelError(
            f"{type(model).__name__} takes {name}, of which none can be made up to try it on, so "
            "it was not tried. In Python, SplitModel(model, batch=...) takes two examples of yours."
        )
    return {key: values.to(device) for key, values in given.items()}


def _numbers(model: Any, shape: tuple[int, ...]) -> Tensor:
    """From -1 to 1, as precise as the weights: not all code of a model brings them to that."""
    values = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape)
    return values.to(next(model.parameters()).device, model.dtype)


def _places(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """[b, s, 4], where each token stands on a page, for models that take it."""
    if "bbox" not in inspect.signature(model.forward).parameters:
        return {}
    corners = ids[..., None].clamp(max=4) * torch.tensor([1, 1, 2, 2], device=ids.device)
    # UDOP, whose bias measures how far apart they are, wants shares of the page.
    return {"bbox": corners / 8 if hasattr(model.config, "relative_bias_args") else corners}


def _pictures(model: Any) -> tuple[int, ...] | None:
    """Shape of two pictures, or films; a side of 64 where the model takes any."""
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        return None  # patches, cut before (SigLIP 2)
    config = model.config
    for part in ("vision_config", "encoder"):  # of its own where there is text too: CLIP, TrOCR
        of_part = getattr(config, part, None)
        config = of_part if isinstance(of_part, PreTrainedConfig) else config
    size = getattr(config, "image_size", 64)
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, tuple | list) or len(sides) != 2 or None in sides:
        return None
    frames = getattr(config, "num_frames", None)
    films = () if frames is None else (frames,)
    return 2, *films, getattr(config, "num_channels", 3), *sides


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


def _spectrum(config: Any, name: str) -> tuple[int, ...] | None:
    """Shape of two examples of sound by its frequencies; None: the model takes no such thing."""
    if name == "input_features" and hasattr(config, "num_mel_bins"):  # Whisper
        return 2, config.num_mel_bins, 2 * config.max_source_positions
    if name == "input_features" and hasattr(config, "input_feat_per_channel"):  # Speech2Text
        return 2, 32, config.input_feat_per_channel
    if name == "input_features" and hasattr(config, "feature_projection_input_dim"):
        return 2, 16, config.feature_projection_input_dim
    if name == "input_values" and hasattr(config, "num_mel_bins"):  # AST
        return 2, config.max_length, config.num_mel_bins
    return None


def varied_batch(model: Any, length: int) -> Batch:
    """Four examples to try a model on: of text and waves of different lengths, padded on the right.

    Args:
        model: with its padding token in its configuration.
        length: tokens of the longest text.

    Raises:
        ModelError: when it takes something that cannot be made up.
    """
    generator = torch.Generator().manual_seed(0)
    batch = probing_batch(model)
    if "input_ids" in batch and batch["input_ids"].ndim == 2:
        text = _text(model.config, length, generator)
        return text | _places(model, text["input_ids"]) | _decoder_text(model, generator)
    batch = {name: torch.cat([values, values.flip(0)]) for name, values in batch.items()}
    main = batch[model.main_input_name]
    if main.is_floating_point():
        batch[model.main_input_name] = torch.randn(main.shape, generator=generator)
    if "attention_mask" in batch and main.ndim == 2:
        frames = (12, 9, 6, 4)
        samples = [
            _num_samples(model.config, count) + number for number, count in enumerate(frames)
        ]
        mask = (torch.arange(max(samples)) < torch.tensor(samples)[:, None]).long()
        waves = torch.randn(mask.shape, generator=generator) * mask
        return {model.main_input_name: waves, "attention_mask": mask}
    return batch | _decoder_text(model, generator)


def _text(config: Any, length: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Words, each text with one end, as a tokenizer makes them."""
    words, text = _words(config), config.get_text_config()
    lengths = [length, max(2, 2 * length // 3), max(2, length // 2), 2]
    end = getattr(text, "eos_token_id", None)
    rows = []
    for count in lengths:
        row = words[torch.randint(len(words), (count,), generator=generator)]
        if isinstance(end, int) and 0 <= end < getattr(text, "vocab_size", 0):
            row[-1] = end
        rows.append(row)
    padding = getattr(text, "pad_token_id", None) or 0
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding)
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def _words(config: Any) -> Tensor:
    """Tokens that mean nothing special; all, where there would be too few."""
    special = set()
    for one in (config, config.get_text_config()):
        for key, value in one.to_dict().items():
            if key.endswith(("token_id", "token_index")):
                special |= {value} if isinstance(value, int) else set(value or ())
    count = min(getattr(config.get_text_config(), "vocab_size", _FEW_WORDS), _FEW_WORDS)
    words = [token for token in range(count) if token not in special]
    return torch.tensor(words if len(words) > 1 else list(range(count)))


def _decoder_text(model: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """What a decoder that generates begins with; others make it of the input themselves."""
    kind = type(model).__name__
    names = inspect.signature(model.forward).parameters
    if "decoder_input_ids" not in names or kind.endswith(("Classification", "QuestionAnswering")):
        return {}
    words = _words(model.config)
    return {"decoder_input_ids": words[torch.randint(len(words), (4, 5), generator=generator)]}
