"""Pre-trained weights and tokenizers from the hub, a folder, or an installed package."""

import difflib
import importlib.util
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from afcore.errors import ModelError, some_of
from afcore.extras import how_to_install
from afcore.model.choice_inputs import take_single_choices
from afcore.model.decoder_start import set_decoder_start
from afcore.model_settings import MODEL_MARK

__all__ = [
    "OURS",
    "architecture_of",
    "build_model",
    "check_complete",
    "check_finite",
    "damaged_file",
    "forward_settings",
    "load_image_processor",
    "load_model",
    "load_tokenizer",
    "locate",
    "read_config",
    "read_model",
    "shown",
    "why_not_loaded",
    "without_place",
]

_ALIGNMENT = 64
"""Bytes, of what torch allots on a CPU."""
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
# What a checkpoint may have been trained or saved for does not go on into ours.
OURS = {
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
}
# What a base model may end with for a task; not every checkpoint has it.
_TASK_PARTS = ("pooler", "head", "_head", "_summary")
_JSON_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "model.safetensors.index.json",
)
_NUM_SHOWN = 3
_GGUF = (
    "GGUF weights, which are for inference alone. Give the folder of the model that they were made "
    "of, with config.json and safetensors weights"
)
_log = logging.getLogger(__name__)


def load_tokenizer(name: str, max_length: int | None = None) -> Any:
    """The model's tokenizer, padding on the right.

    Right, because GPT-2 numbers positions by column: padding on the left would make an example's
    hidden states depend on its neighbours' lengths.

    Args:
        name: of the model.
        max_length: tokens to which ``truncation=True`` cuts a text; None: as the tokenizer says.

    Raises:
        ModelError: when there is none, or it knows no words.
    """
    path = locate(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # the tokenizers' library has no exceptions of its own
        if "instantiate the backend tokenizer" in str(error) and damaged_file(path) is None:
            raise _no_vocabulary(name) from error
        raise ModelError(f"model {name!r}: no tokenizer: {why_not_loaded(path, error)}") from error
    special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    if len(set(tokenizer.get_vocab()) - special) < 2:
        # Without files Transformers makes an empty one, to which every word is unknown.
        raise _no_vocabulary(name)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"model {name!r}: its tokenizer has neither a padding nor an end token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def load_image_processor(name: str) -> Any:
    """What makes pictures into the model's tensors.

    Raises:
        ModelError: when there is none.
    """
    path = locate(name)
    try:
        return AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as of a tokenizer
        raise ModelError(
            f"model {name!r}: no image processor: {why_not_loaded(path, error)}. Give a model of "
            "pictures, whose folder has a preprocessor_config.json"
        ) from error


def load_model(
    name: str, auto_class: str, seed: int, *, allow_new: bool = False, **settings: Any
) -> Any:
    """A model with pre-trained blocks and a new head drawn from ``seed``.

    Weights are loaded in fp32 and never from a pickle.

    Args:
        name: of the model.
        auto_class: of ``transformers``, which knows the head.
        seed: of all that is newly drawn.
        settings: of the model's configuration: the head's, the padding token.
        allow_new: train a model some of whose embeddings or blocks have no weights.

    Raises:
        ModelError: when it cannot be loaded, has no weights, too few, quantized ones, or some that
            are no numbers.
    """
    torch.manual_seed(seed)
    model, report = read_model(
        name,
        auto_class,
        "Give a hub id or a folder with config.json and safetensors weights.",
        **settings | OURS,
    )
    if getattr(model, "is_quantized", False):
        raise ModelError(
            f"model {name!r}: its weights are quantized, so they cannot be trained. Give the model "
            "that they were made of; model.quantization quantizes the blocks that stay frozen"
        )
    missing = sorted(report["missing_keys"])
    mismatched = sorted(report["mismatched_keys"])
    new = missing + [key[0] for key in mismatched]
    check_complete(name, model, missing, mismatched, allow_new)
    check_finite(name, model, set(new))
    if unread := without_place(model, report["unexpected_keys"]):
        _log.warning(
            "model %r: its weights have blocks for which config.json has no place, and they are "
            "not used: %s. Is its number of layers right?",
            *(name, shown(unread)),
        )
    _log.info("model: %s from %s; newly drawn: %s", type(model).__name__, name, shown(new))
    # Of an earlier training, whose model this one begins with.
    vars(model.config).pop(MODEL_MARK, None)
    return model


def read_model(
    name: str, auto_class: str, advice: str, **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """A model with its head in fp32, never from a pickle.

    Args:
        name: a folder, a hub id, or ``package:...``.
        auto_class: of ``transformers``, which knows the head.
        advice: ends the message of the error.
        settings: of the configuration, to be replaced.

    Returns:
        The model, and Transformers' account of what its weights lacked.

    Raises:
        ModelError: when it cannot be loaded.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    path = locate(name)
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            path,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # a wrong configuration fails in whatever comes upon it first
        if "Unrecognized configuration class" in str(error):
            kind = read_config(name, advice).model_type
            raise ModelError(
                f"model {name!r} is a {kind!r} model, of which Transformers has none for the task "
                f"({auto_class}). Give a model of another kind, or choose another task"
            ) from error
        raise ModelError(
            f"model {name!r} cannot be loaded: {why_not_loaded(path, error)}. {advice}"
        ) from error
    _align(model)
    set_decoder_start(model.config, getattr(model, "generation_config", None))
    return take_single_choices(model), report


def _align(model: Any) -> None:
    """Give weights that lie in a mapped file memory as torch allots it.

    In a file they begin anywhere, and some CPUs' matrix products round otherwise there: a run that
    goes on with weights from a checkpoint would differ from an undisturbed one in the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def read_config(name: str, advice: str) -> Any:
    """The configuration alone; see :func:`read_model`."""
    path = locate(name)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # as there
        raise ModelError(
            f"model {name!r} cannot be loaded: {why_not_loaded(path, error)}. {advice}"
        ) from error


def forward_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What of an architecture's configuration decides the numbers it computes."""
    return {key: value for key, value in config.items() if key not in _NOT_IN_FORWARD}


def architecture_of(model: Any) -> dict[str, Any]:
    """The model's configuration as ``config.json`` would have it, for :func:`build_model`."""
    as_written: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    return {**as_written, "attn_implementation": model.config._attn_implementation}


def build_model(config: dict[str, Any], auto_class: str) -> Any:
    """The architecture of a configuration, with weights that the caller will replace."""
    with torch.random.fork_rng(devices=[]):
        architecture = AutoConfig.for_model(**_with_infinities(config) | OURS)
        kind = getattr(transformers, auto_class)
        return take_single_choices(kind.from_config(architecture, dtype=torch.float32))


def _with_infinities(config: dict[str, Any]) -> dict[str, Any]:
    """With the numbers that JSON has none of: Mamba 2's steps are between 0 and infinity."""

    def number(found: dict[str, Any]) -> Any:
        return float(found["__float__"]) if found.keys() == {"__float__"} else found

    decoded: dict[str, Any] = json.loads(json.dumps(config), object_hook=number)
    return decoded


def _is_of_body(model: Any, key: str) -> bool:
    """Whether a tensor is of the embeddings, a block or a norm, not of what a task adds."""
    prefix = f"{model.base_model_prefix}."
    for part in key.removeprefix(prefix).split("."):
        if part.isdigit():
            break
        if part.endswith(_TASK_PARTS):
            return False
    if model.base_model is not model:
        return key.startswith(prefix)
    # Nothing is called as its body (T5 that generates, CLIP): what has blocks is of it, or words.
    outermost = getattr(model, key.partition(".")[0])
    inside = outermost.modules() if isinstance(outermost, nn.Module) else ()
    return any(isinstance(module, nn.ModuleList | nn.Embedding) for module in inside)


def without_place(model: Any, unexpected: Iterable[str]) -> list[str]:
    """Numbered blocks of the weights that the model does not have."""
    body, prefix = model.base_model, f"{model.base_model_prefix}."
    modules = dict(body.named_modules())
    blocks = set()
    for key in unexpected:
        parts = key.removeprefix(prefix).split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        if number and ".".join(parts[:number]) in modules:
            blocks.add(".".join(parts[: number + 1]))
    return sorted(blocks - modules.keys())


def check_complete(
    name: str,
    model: Any,
    missing: list[str],
    mismatched: list[tuple[str, Any, Any]],
    allow_new: bool,
) -> None:
    """Refuse a model whose embeddings or blocks would be drawn at random."""
    absent = [key for key in missing if _is_of_body(model, key)]
    other = [entry for entry in mismatched if _is_of_body(model, entry[0])]
    if not absent and not other:
        return
    if len(absent) + len(other) > len(list(model.parameters())) / 2 and not allow_new:
        new = absent + [entry[0] for entry in other]
        raise ModelError(
            f"the weights of model {name!r} fit none of its blocks: {shown(new)}. Do config.json "
            "and the weights belong together?"
        )
    problems = []
    if absent:
        problems.append(f"its weights lack {shown(absent)}")
    problems += [
        f"{key} is {list(stored)} in its weights, but {list(wanted)} by config.json"
        for key, stored, wanted in other[:_NUM_SHOWN]
    ]
    what = f"model {name!r}: {'; '.join(problems)}"
    if allow_new:
        _log.warning("%s; drawn at random, as model.allow_new_weights says", what)
        return
    raise ModelError(
        f"{what}. What is missing would be drawn at random. Correct config.json (number of layers, "
        "positions, size of the vocabulary), or set model.allow_new_weights to true to train it so."
    )


def check_finite(name: str, model: Any, new: set[str]) -> None:
    """Refuse weights that are no numbers, before anything is computed with them.

    Args:
        name: of the model.
        model: loaded.
        new: names of weights that were drawn, and are not looked at.

    Raises:
        ModelError: naming some of them.
    """
    bad = [
        key
        for key, tensor in model.named_parameters()
        if key not in new and not bool(tensor.detach().isfinite().all())
    ]
    if bad:
        raise ModelError(
            f"model {name!r}: its weights are not all numbers (NaN or infinite): {shown(bad)}. "
            "The training that made them diverged, or the file is damaged; use another checkpoint."
        )


def shown(names: list[str]) -> str:
    """The first few of many names, or that there are none."""
    return some_of(names) or "nothing"


def locate(name: str) -> str:
    """The folder of a model, or its hub id.

    Raises:
        ModelError: for a name that can only be that of a folder, and there is none.
    """
    if not name.startswith("package:"):
        folder = Path(name).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise ModelError(f"model {name!r}: the folder has no config.json{_it_is(folder)}.")
            return str(folder) if name.startswith("~") else name
        if folder.suffix == ".gguf" and folder.exists():
            raise ModelError(f"model {name!r} is a file of {_GGUF}.")
        if folder.exists():
            raise ModelError(f"model {name!r} is a file; give the folder that it is in")
        if _is_path(name):
            raise ModelError(
                f"model {name!r}: there is no such folder: {folder.absolute()}{_meant(folder)}"
            )
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # of a package within one that is not there; no name at all
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"model {name!r}: the package {package!r} is not installed: {how_to_install(package)}"
        )
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.is_dir():
        raise ModelError(f"model {name!r}: the package {package!r} has no folder {inside!r}")
    return str(path)


def _it_is(folder: Path) -> str:
    """What a folder without a configuration is instead, and what to give."""
    if (folder / "adapter_config.json").is_file():
        return (
            ": it is an adapter of PEFT. Merge it into its model (merge_and_unload), and give the "
            "folder that save_pretrained writes of that"
        )
    if any(folder.glob("*.gguf")):
        return f": it has {_GGUF}"
    inside = [
        str(file.parent)
        for file in sorted(folder.glob("*/config.json"))
        if '"model_type"' in file.read_text(encoding="utf-8", errors="replace")
    ]
    if inside:  # as of sentence-transformers, or the Trainer's checkpoints
        return f", but there is a model in it: give {' or '.join(inside[:_NUM_SHOWN])}"
    return ". Give one that save_pretrained wrote, with config.json and safetensors weights"


def _is_path(name: str) -> bool:
    """Whether a name that is no folder can only have been meant as one; a hub id has one slash."""
    parts = Path(name).parts
    return name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or len(parts) > 2


def _meant(folder: Path) -> str:
    """The folder beside it whose name is nearest, as a question."""
    above = folder.parent
    beside = (
        sorted(path.name for path in above.iterdir() if path.is_dir()) if above.is_dir() else []
    )
    near = difflib.get_close_matches(folder.name, beside, n=1)
    return f"; did you mean {str(above / near[0])!r}?" if near else ""


def _no_vocabulary(name: str) -> ModelError:
    return ModelError(
        f"model {name!r}: its tokenizer has no vocabulary: tokenizer.json, or the files of the "
        "vocabulary (vocab.txt; vocab.json and merges.txt; *.model), are missing or empty. Put the "
        "tokenizer that the model was trained with beside its weights."
    )


def why_not_loaded(path: str, error: Exception) -> str:
    """What a loader's exception means, in one line: it rarely names the file."""
    damaged = damaged_file(path)
    if damaged is not None:
        return damaged
    if "trust_remote_code" in str(error):
        return "it needs code of its own (auto_map), and code from a model's folder is not run"
    if isinstance(error, OSError) and not Path(path).exists():
        said = _first_line(error)
        hub = "the hub cannot be reached" if "connect" in said else f"the hub has none ({said})"
        return (
            f"there is no such folder: {Path(path).absolute()}{_meant(Path(path))}; nor was a "
            f"model of this name downloaded before, and {hub}"
        )
    return _first_line(error)


def damaged_file(path: str) -> str | None:
    """Which of the model's files cannot be read as what it is, and why."""
    for file in _stored_files(path):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
                continue
            content = json.loads(file.read_text(encoding="utf-8"))
            if file.name == "config.json" and not isinstance(content, dict):
                return f"{file} is damaged: it holds no keys. Copy or download it anew"
            if file.name == "tokenizer.json":
                Tokenizer.from_file(str(file))
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
        except Exception as error:  # as above: the tokenizers' library raises nothing narrower
            return f"{file} is damaged: {_first_line(error)}. Copy or download it anew"
    return None


def _stored_files(path: str) -> Iterable[Path]:
    if Path(path).is_dir():
        yield from (file for name in _JSON_FILES if (file := Path(path) / name).is_file())
        yield from sorted(Path(path).glob("*.safetensors"))
        return
    for name in (*_JSON_FILES, "model.safetensors"):
        try:
            cached = try_to_load_from_cache(path, name)
        except HFValidationError:  # no name that a model can have
            return
        if isinstance(cached, str):
            yield Path(cached)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if isinstance(error, KeyError):
        return f"nothing is called {lines[0]}"
    more = lines[0].endswith(":") and len(lines) > 1
    return (f"{lines[0]} {lines[1]}" if more else lines[0]).rstrip(".:")
