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
from afcore.model.forwards import logits_of
from afcore.model.pretrained import check_finite, read_config, read_model, shown
from afcore.model.processors import load_processor
from afcore.model.split_model import Batch, SplitModel
from afcore.model_settings import MODEL_MARK, ModelSettings
from afcore.tasks.known_tasks import (
    DEFAULT_TASK,
    TASKS,
    is_made_by,
    parse_task,
    task_class,
    task_of_model,
)
from afcore.tasks.task import Task

__all__ = ["FinetunedModel", "load_finetuned"]


_ADVICE = "Give a folder that `autofreeze run --output` or save_pretrained wrote, or a hub id."


@dataclass(frozen=True)
class FinetunedModel:
    """A model with its task, in eval mode.

    Attributes:
        model: a ``PreTrainedModel`` on the CPU.
        processor: of the model: its tokenizer, padding on the right.
        task: that it was trained for.
        settings: of its training.
        logits: of a batch, [b, ...].
    """

    model: Any
    processor: Any
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
    kind = _task_class(settings, config)
    model, report = read_model(name, kind.auto_class, _ADVICE)
    absent = sorted([*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])])
    if absent:
        raise ModelError(
            f"model {name!r} is not trained for a task: its weights lack {shown(absent)}. Train "
            "it first, with `autofreeze run`."
        )
    check_finite(name, model, set())
    processor = load_processor(kind.processor, name)
    if settings.task is not None:
        task = parse_task(settings.task)
    else:
        ours = settings.run_id is not None
        task = task_of_model(name, model.config, processor, ours=ours).fitted(model)
    task = task.bound_to(lambda: processor)
    task.configure(model)
    if kind.processor == "tokenizer" and model.config.pad_token_id is None:
        model.config.pad_token_id = processor.pad_token_id
    logits = _as_it_comes(model.eval())
    if settings.pooled_last_block is not None:
        logits = SplitModel(model, pool=settings.pooled_last_block).logits
    return FinetunedModel(model, processor, task, settings, logits)


def _task_class(settings: ModelSettings, config: Any) -> type[Task]:
    """The task's, or that of the first one whose models are called as this one is."""
    if settings.task is not None:
        return task_class(str(settings.task.get("name")))
    called = (config.architectures or [""])[0]
    kinds = (k for k in TASKS.values() if is_made_by(k.auto_class, called, config.model_type))
    return next(kinds, task_class(DEFAULT_TASK))


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
        return logits_of(model(**batch))

    return logits
