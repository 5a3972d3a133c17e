"""Models that are trained, with their task, from a folder or the hub, to predict with.

Leaves those that are to be trained to :mod:`afcore.model.pretrained`, and with it what a loader's
exceptions mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from afcore.errors import ModelError
from afcore.model.pretrained import check_finite, load_tokenizer, read_config, read_model, shown
from afcore.model.split_model import Batch, SplitModel
from afcore.model_settings import MODEL_MARK, ModelSettings
from afcore.tasks.known_tasks import DEFAULT_TASK, TASKS, parse_task, task_class, task_of_model
from afcore.tasks.task import Task

__all__ = ["FinetunedModel", "load_finetuned"]


_ADVICE = "Give a folder that `autofreeze run --output` or save_pretrained wrote, or a hub id."


@dataclass(frozen=True)
class FinetunedModel:
    """A model with its task, in eval mode.

    Attributes:
        model: a ``PreTrainedModel`` on the CPU.
        tokenizer: of the model, padding on the right.
        task: that it was trained for.
        settings: of its training.
        logits: of a batch, [b, ...].
    """

    model: Any
    tokenizer: Any
    task: Task
    settings: ModelSettings
    logits: Callable[[Batch], Tensor]


def load_finetuned(name: str) -> FinetunedModel:
    """Load a model with all its weights, for one of the known tasks.

    Args:
        name: a folder, a hub id, or ``package:...``.

    Raises:
        ModelError: when it cannot be loaded, or is of no task that is known.
    """
    config = read_config(name, _ADVICE)
    settings = _settings(name, config)
    model, report = read_model(name, _auto_class(settings, config), _ADVICE)
    absent = sorted([*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"model {name!r} is not trained for a task: its weights lack {shown(absent)}. Train "
            "it first, with `autofreeze run`."
        )
    check_finite(name, model, set())
    tokenizer = load_tokenizer(name)
    if settings.task is not None:
        task = parse_task(settings.task)
    else:
        task = task_of_model(name, model.config, tokenizer, ours=settings.run_id is not None)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    logits = _as_it_comes(model.eval())
    if settings.pooled_last_block is not None:
        logits = SplitModel(model, pool=settings.pooled_last_block).logits
    return FinetunedModel(model, tokenizer, task, settings, logits)


def _auto_class(settings: ModelSettings, config: Any) -> str:
    """Of the task, or of the first one whose models are called as this one is."""
    if settings.task is not None:
        return task_class(str(settings.task.get("name"))).auto_class
    names = [kind.auto_class for kind in TASKS.values()]
    called = (config.architectures or [""])[0]
    endings = (name for name in names if called.endswith(name.removeprefix("AutoModel")))
    return next(endings, task_class(DEFAULT_TASK).auto_class)


def _settings(name: str, config: Any) -> ModelSettings:
    try:
        return ModelSettings.model_validate(getattr(config, MODEL_MARK, {}))
    except ValidationError as error:
        raise ModelError(
            f"model {name!r}: {MODEL_MARK!r} in its config.json is of another release, or damaged. "
            "Remove the key and give the options that it stood for, or write the folder anew."
        ) from error


def _as_it_comes(model: Any) -> Callable[[Batch], Tensor]:
    def logits(batch: Batch) -> Tensor:
        given: Tensor = model(**batch).logits
        return given

    return logits
