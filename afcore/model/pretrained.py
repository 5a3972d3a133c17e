"""Pre-trained weights and tokenizers from the hub, a folder, or an installed package."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from afcore.errors import ModelError

__all__ = ["build_classifier", "forward_settings", "load_classifier", "load_tokenizer"]

_NOT_IN_FORWARD = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "transformers_version",
)
_log = logging.getLogger(__name__)


def load_tokenizer(name: str) -> Any:
    """The model's tokenizer, padding on the right.

    Right, because GPT-2 numbers positions by column: padding on the left would make an example's
    hidden states depend on its neighbours' lengths.

    Raises:
        ModelError: when there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(_locate(name), trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"model {name!r}: no tokenizer: {_first_line(error)}") from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"model {name!r}: its tokenizer has neither a padding nor an end token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_classifier(name: str, label_names: list[str], pad_token_id: int, seed: int) -> Any:
    """A sequence classifier with pre-trained blocks and a new head drawn from ``seed``.

    Weights are loaded in fp32 and never from a pickle.

    Raises:
        ModelError: when it cannot be loaded, or has no weights.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(seed)
    path = _locate(name)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            num_labels=len(label_names),
            id2label=dict(enumerate(label_names)),
            label2id={label: i for i, label in enumerate(label_names)},
            pad_token_id=pad_token_id,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"model {name!r} cannot be loaded: {_first_line(error)}. Give a hub id or a folder "
            "with config.json and safetensors weights."
        ) from error
    new = sorted(report["missing_keys"]) + sorted(key[0] for key in report["mismatched_keys"])
    base = f"{model.base_model_prefix}."
    if sum(key.startswith(base) for key in new) > len(list(model.parameters())) / 2:
        raise ModelError(f"the weights of model {name!r} fit none of its blocks: {new[:3]} ...")
    _log.info("model: %s from %s; newly drawn: %s", type(model).__name__, name, ", ".join(new))
    return model


def forward_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What of an architecture's configuration decides the numbers it computes."""
    return {key: value for key, value in config.items() if key not in _NOT_IN_FORWARD}


def build_classifier(config: dict[str, Any]) -> Any:
    """The architecture of a configuration, with weights that the caller will replace."""
    with torch.random.fork_rng(devices=[]):
        architecture = AutoConfig.for_model(**config)
        return AutoModelForSequenceClassification.from_config(architecture, dtype=torch.float32)


def _locate(name: str) -> str:
    if not name.startswith("package:"):
        if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
            raise ModelError(f"model {name!r}: there is no such folder")
        return str(Path(name).expanduser()) if name.startswith("~") else name
    package, _, folder = name.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {name!r}: the package {package!r} is not installed")
    path = Path(spec.submodule_search_locations[0]) / folder
    if not path.is_dir():
        raise ModelError(f"model {name!r}: the package {package!r} has no folder {folder!r}")
    return str(path)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
