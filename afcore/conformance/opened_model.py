"""A model to be looked at: with its weights, or with random ones where there are none.

What a user can mend (a folder that is missing, a file that is damaged, too little memory) is an
error; what lies in the model is :class:`UnsupportedModelError`, which becomes a verdict.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from afcore.conformance.heads import Head, find_head
from afcore.errors import ModelError, in_one_line
from afcore.memory import available_memory
from afcore.model.decoder_start import set_decoder_start
from afcore.model.pretrained import (
    OURS,
    check_complete,
    check_finite,
    damaged_file,
    locate,
    read_model,
    shown,
    why_not_loaded,
    without_place,
)

__all__ = ["OpenedModel", "UnsupportedModelError", "build_random", "one_line", "open_model"]

_MOST_CHARACTERS = 300
_FEW_BLOCKS = 4
_COPIES = 4  # of the weights as float64, their gradients, and what a step is undone from
_JITTER = 0.05
_NOT_READ = ("pytorch_model*.bin", "tf_model*.h5", "flax_model*.msgpack", "*.gguf", "*.pth")
"""Files of weights that no run reads."""


class UnsupportedModelError(Exception):
    """A model that cannot be built or run here; its message is the reason of a verdict."""


@dataclass(frozen=True)
class OpenedModel:
    """A model on the CPU, in eval mode.

    Attributes:
        model: a ``PreTrainedModel`` in fp32.
        head: that it has.
        weights: where they are from, as a sentence.
        notes: sentences on what of its folder is not used, or refused by runs.
    """

    model: Any
    head: Head
    weights: str
    notes: tuple[str, ...] = ()


def open_model(name: str, task: str | None = None) -> OpenedModel:
    """A model with its head.

    Args:
        name: a folder, a hub id or ``package:...``; a folder may hold ``config.json`` alone.
        task: whose head; None: that of the model's architecture.

    Raises:
        UserError: for a model that is not there or damaged, weights that are no numbers, a task
        that nobody knows, or too little memory.
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
    notes = _notes(config)
    if Path(path).is_dir() and not any(Path(path).glob("*.safetensors")):
        opened = build_random(config, head)
        others = sorted(file.name for kind in _NOT_READ for file in Path(path).glob(kind))
        if not others:
            return replace(opened, notes=notes)
        weights = opened.weights.replace("there are none", "there are no safetensors")
        unread = (
            f"runs read safetensors alone, and refuse {shown(others)}: open the model with "
            "Transformers once, and save it with save_pretrained"
        )
        return replace(opened, weights=weights, notes=(*notes, unread))
    try:
        model, report = read_model(path, head.auto_class, "", **OURS)
    except ModelError as error:
        if damaged_file(path) is not None or isinstance(error.__cause__, OSError):
            raise
        raise UnsupportedModelError(
            f"it cannot be built: {one_line(error.__cause__ or error)}"
        ) from error
    _set_padding(model.config)
    weights, unfit = _look_at_weights(name, model, report)
    return OpenedModel(model.eval(), head, weights, notes + unfit)


def build_random(config: Any, head: Head, seed: int = 0) -> OpenedModel:
    """A model with random weights, none of them zero; fewer blocks where memory has no room.

    Raises:
        ModelError: when a few blocks are still too many.
        UnsupportedModelError: when it cannot be built.
    """
    kind = getattr(transformers, head.auto_class)
    whole = _num_bytes(kind, config)
    origin = "random (there are none beside config.json)"
    if whole * _COPIES > available_memory():
        origin = f"random, {_cut_blocks(config)}, as all would be {whole / 1e9:.0f} GB"
        if _num_bytes(kind, config) * _COPIES > available_memory():
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


def _notes(config: Any) -> tuple[str, ...]:
    """What a configuration asks for that is not done."""
    notes = []
    if getattr(config, "auto_map", None):
        notes.append(
            "code of the model's own (auto_map) is not run: it is tried as Transformers' "
            f"{config.model_type}"
        )
    quantization = getattr(config, "quantization_config", None)
    if isinstance(quantization, dict):
        method = str(quantization.get("quant_method"))
        if not any(one.startswith(method) for one in AUTO_QUANTIZER_MAPPING):
            notes.append(f"Transformers knows no quantization called {method!r}: it is left out")
    return tuple(notes)


def _look_at_weights(name: str, model: Any, report: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Where they are from, and what a run says of them.

    Raises:
        ModelError: for some that are no numbers, as a run does.
    """
    missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    check_finite(name, model, {*missing, *(key[0] for key in mismatched)})
    new = [
        f"{len(keys)} tensor{'s' if len(keys) > 1 else ''} {what}"
        for keys, what in ((missing, "that they lack"), (mismatched, "of another size"))
        if keys
    ]
    notes = []
    try:
        check_complete(name, model, missing, mismatched, allow_new=False)
    except ModelError as error:
        said = str(error).removeprefix(f"model {name!r}: ").rstrip(".")
        notes.append(f"a run refuses these weights: {said}")
    if unread := without_place(model, report["unexpected_keys"]):
        notes.append(f"its weights have blocks for which config.json has no place: {shown(unread)}")
    return f"its own; random: {', '.join(new)}" if new else "its own", tuple(notes)


def _read_config(name: str, path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # a wrong configuration fails in whatever comes upon it first
        has_no_type = "`model_type`" in str(error)
        is_of_file = isinstance(error, OSError | StrictDataclassFieldValidationError)
        if damaged_file(path) is not None or is_of_file or has_no_type:
            why = why_not_loaded(path, error)
            raise ModelError(f"model {name!r} cannot be read: {why}.") from error
        if "trust_remote_code" in str(error):
            raise UnsupportedModelError(f"{why_not_loaded(path, error)}.") from error
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
