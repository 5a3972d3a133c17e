"""A model to be looked at: with its weights, or with random ones where there are none.

What a user can mend (a folder that is missing, a file that is damaged, too little memory) is an
error; what lies in the model is :class:`UnsupportedModelError`, which becomes a verdict.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoConfig

from afcore.conformance.heads import Head, find_head
from afcore.errors import ModelError, in_one_line
from afcore.model.decoder_start import set_decoder_start
from afcore.model.pretrained import OURS, damaged_file, locate, read_model, why_not_loaded

__all__ = ["OpenedModel", "UnsupportedModelError", "build_random", "one_line", "open_model"]

_MOST_CHARACTERS = 300
_FEW_BLOCKS = 4
_COPIES = 4  # of the weights as float64, their gradients, and what a step is undone from
_JITTER = 0.05


class UnsupportedModelError(Exception):
    """A model that cannot be built or run here; its message is the reason of a verdict."""


@dataclass(frozen=True)
class OpenedModel:
    """A model on the CPU, in eval mode.

    Attributes:
        model: a ``PreTrainedModel`` in fp32.
        head: that it has.
        weights: where they are from, as a sentence.
    """

    model: Any
    head: Head
    weights: str


def open_model(name: str, task: str | None = None) -> OpenedModel:
    """A model with its head.

    Args:
        name: a folder, a hub id or ``package:...``; a folder may hold ``config.json`` alone.
        task: whose head; None: that of the model's architecture.

    Raises:
        UserError: for a model that is not there or damaged, a task that nobody knows, or too little
        memory.
        UnsupportedModelError: for a model that Transformers cannot build.
    """
    transformers.utils.logging.set_verbosity_error()
    path = locate(name)
    config = _read_config(name, path)
    head = find_head(config, task)
    if head is None:
        kind = f"a head for {task}" if task else "any head that is known here"
        raise UnsupportedModelError(
            f"Transformers has no class of {config.model_type} with {kind}."
        )
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        return build_random(config, head)
    try:
        model, report = read_model(path, head.auto_class, "", **OURS)
    except ModelError as error:
        if damaged_file(path) is not None or isinstance(error.__cause__, OSError):
            raise
        raise UnsupportedModelError(
            f"it cannot be built: {one_line(error.__cause__ or error)}"
        ) from error
    _set_padding(model.config)
    num_new = len(report["missing_keys"]) + len(report["mismatched_keys"])
    new = f"; {num_new} tensors that they lack are random" if num_new else ""
    return OpenedModel(model.eval(), head, f"its own{new}")


def build_random(config: Any, head: Head, seed: int = 0) -> OpenedModel:
    """A model with random weights, none of them zero; fewer blocks where memory has no room.

    Raises:
        ModelError: when a few blocks are still too many.
        UnsupportedModelError: when it cannot be built.
    """
    kind = getattr(transformers, head.auto_class)
    whole = _num_bytes(kind, config)
    origin = "random (there are none beside config.json)"
    if whole * _COPIES > psutil.virtual_memory().available:
        origin = f"random, {_cut_blocks(config)}, as all would be {whole / 1e9:.0f} GB"
        if _num_bytes(kind, config) * _COPIES > psutil.virtual_memory().available:
            raise ModelError(
                f"{config.model_type}: its weights would be {whole / 1e9:.0f} GB, and even with "
                f"{_FEW_BLOCKS} blocks they have no room in memory. Give a config.json of smaller "
                "sizes."
            )
    _set_padding(config)
    config.update(OURS)
    if config.architectures is None:
        config.architectures = []  # DeiT has two classes, of which these choose
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = kind.from_config(config, dtype=torch.float32)
        except Exception as error:  # whatever a model's own code raises
            raise UnsupportedModelError(f"it cannot be built: {one_line(error)}") from error
        # Zeros and ones, as models begin with, would hide what they multiply.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=_JITTER)
    return OpenedModel(model.eval(), head, origin)


def one_line(error: BaseException) -> str:
    """What an exception says, short, with a full stop."""
    return f"{in_one_line(error, _MOST_CHARACTERS).rstrip('.')}."


def _read_config(name: str, path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a wrong configuration fails in whatever comes upon it first
        if damaged_file(path) is not None or isinstance(error, OSError):
            why = why_not_loaded(path, error)
            raise ModelError(f"model {name!r} cannot be read: {why}.") from error
        raise UnsupportedModelError(
            f"its configuration cannot be read: {one_line(error)}"
        ) from error


def _num_bytes(kind: Any, config: Any) -> int:
    """Of the weights in fp32, without making them; 0 where that cannot be told."""
    try:
        with torch.device("meta"):
            model = kind.from_config(config, dtype=torch.float32)
    except Exception:  # said when it is built
        return 0
    return 4 * int(sum(parameter.numel() for parameter in model.parameters()))


def _cut_blocks(config: Any) -> str:
    text = config.get_text_config()
    count = text.num_hidden_layers
    text.num_hidden_layers = _FEW_BLOCKS
    for key, value in list(vars(text).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(text, key, value[:_FEW_BLOCKS])
    return f"{_FEW_BLOCKS} of its {count} blocks"


def _set_padding(config: Any) -> None:
    """Of a model that has no padding token it is the end, as in training, or token 0."""
    for one in {id(c): c for c in (config, config.get_text_config())}.values():
        if getattr(one, "pad_token_id", None) is None and hasattr(one, "vocab_size"):
            end = getattr(one, "eos_token_id", None)
            one.pad_token_id = end if isinstance(end, int) and end < one.vocab_size else 0
    set_decoder_start(config)
