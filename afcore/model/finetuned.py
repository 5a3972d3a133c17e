"""Models that are trained: a classifier with its labels, from a folder or the hub, to predict with.

Leaves those that are to be trained to :mod:`afcore.model.pretrained`, and with it what a loader's
exceptions mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from afcore.errors import ModelError
from afcore.model.pretrained import check_finite, load_tokenizer, read_classifier, shown
from afcore.model.split_model import Batch, SplitModel
from afcore.model_settings import MODEL_MARK, ModelSettings

__all__ = ["FinetunedModel", "load_finetuned"]


@dataclass(frozen=True)
class FinetunedModel:
    """A classifier, in eval mode.

    Attributes:
        model: a ``PreTrainedModel`` on the CPU.
        tokenizer: of the model, padding on the right.
        label_names: one a class.
        settings: of its training.
        logits: of a batch, [b, c].
    """

    model: Any
    tokenizer: Any
    label_names: list[str]
    settings: ModelSettings
    logits: Callable[[Batch], Tensor]


def load_finetuned(name: str) -> FinetunedModel:
    """Load a classifier of one label an example, with all its weights and its labels' names.

    Args:
        name: a folder, a hub id, or ``package:...``.

    Raises:
        ModelError: when it cannot be loaded, or is no such classifier.
    """
    model, report = read_classifier(
        name, "Give a folder that `autofreeze run --output` or save_pretrained wrote, or a hub id."
    )
    absent = sorted([*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"model {name!r} is no trained classifier: its weights lack {shown(absent)}. Train it "
            "first, with `autofreeze run`."
        )
    check_finite(name, model, set())
    settings = _settings(name, model.config)
    label_names = _label_names(name, model.config, ours=settings.run_id is not None)
    tokenizer = load_tokenizer(name)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    logits = _as_it_comes(model.eval())
    if settings.pooled_last_block is not None:
        logits = SplitModel(model, pool=settings.pooled_last_block).logits
    return FinetunedModel(model, tokenizer, label_names, settings, logits)


def _settings(name: str, config: Any) -> ModelSettings:
    try:
        return ModelSettings.model_validate(getattr(config, MODEL_MARK, {}))
    except ValidationError as error:
        raise ModelError(
            f"model {name!r}: {MODEL_MARK!r} in its config.json is of another release, or damaged. "
            "Remove the key and give the options that it stood for, or write the folder anew."
        ) from error


def _label_names(name: str, config: Any, *, ours: bool) -> list[str]:
    if config.problem_type in ("regression", "multi_label_classification") or config.num_labels < 2:
        kind = config.problem_type or f"a classification of {config.num_labels} class"
        raise ModelError(
            f"model {name!r} is for {kind}; a classifier of one label a text, with two or more "
            "classes, was expected"
        )
    names = [str(config.id2label[number]) for number in range(config.num_labels)]
    if names == [f"LABEL_{number}" for number in range(len(names))] and not ours:
        raise ModelError(
            f"model {name!r} does not name its labels: config.json has no id2label. Write it "
            'there, e.g. "id2label": {"0": "negative", "1": "positive"}.'
        )
    return names


def _as_it_comes(model: Any) -> Callable[[Batch], Tensor]:
    def logits(batch: Batch) -> Tensor:
        given: Tensor = model(**batch).logits
        return given

    return logits
