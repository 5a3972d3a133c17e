"""The tasks that ``task`` may name: a line each, in the order of the reference."""

from typing import Any

from afcore.errors import ConfigError, ModelError
from afcore.tasks.causal_language_modeling import CausalLanguageModeling
from afcore.tasks.image_classification import ImageClassification
from afcore.tasks.multi_label_classification import MultiLabelClassification
from afcore.tasks.multiple_choice import MultipleChoice
from afcore.tasks.question_answering import QuestionAnswering
from afcore.tasks.scores import Score
from afcore.tasks.summarization import Summarization
from afcore.tasks.task import Task
from afcore.tasks.text_classification import TextClassification
from afcore.tasks.text_ordinal import TextOrdinal
from afcore.tasks.text_regression import TextRegression
from afcore.tasks.token_classification import TokenClassification

__all__ = [
    "DEFAULT_TASK",
    "TASKS",
    "find_score",
    "is_made_by",
    "parse_task",
    "task_class",
    "task_of_model",
]

TASKS: dict[str, type[Task]] = {
    kind.model_fields["name"].default: kind
    for kind in (
        TextClassification,  # a line each
        TextRegression,
        MultiLabelClassification,
        TextOrdinal,
        ImageClassification,
        TokenClassification,
        MultipleChoice,
        Summarization,
        CausalLanguageModeling,
        QuestionAnswering,
    )
}
DEFAULT_TASK = "text-classification"


def task_class(name: str) -> type[Task]:
    """Of a task.

    Raises:
        ConfigError: when there is none of this name.
    """
    if name not in TASKS:
        raise ConfigError(f"task: there is none called {name!r}; known are {', '.join(TASKS)}")
    return TASKS[name]


def parse_task(record: dict[str, Any]) -> Task:
    """From what :meth:`Task.model_dump` gave.

    Raises:
        ValueError: when it is no such thing.
    """
    return TASKS[str(record.get("name"))].model_validate(record)


def find_score(task: str, name: str) -> Score:
    """A task's score by its name.

    Raises:
        ConfigError: when the task has no such score.
    """
    scores = {score.name: score for score in task_class(task).scores}
    if name not in scores:
        raise ConfigError(
            f"training.score: task {task} has no score {name!r}; known are {', '.join(scores)}"
        )
    return scores[name]


def is_made_by(auto_class: str, called: str, model_type: str) -> bool:
    """Whether a class of Transformers makes models that are called so (``T5ForConditional...``)."""
    import transformers

    if called.endswith(auto_class.removeprefix("AutoModel")):
        return True
    names = getattr(transformers, auto_class)._model_mapping._model_mapping.get(model_type, ())
    return called in ((names,) if isinstance(names, str) else names)


def task_of_model(name: str, config: Any, processor: Any, *, ours: bool) -> Task:
    """The task of a trained model, from what its configuration says.

    Args:
        name: of the model, as the user gave it.
        config: of the model.
        processor: of the model: its tokenizer.
        ours: it was trained here.

    Raises:
        ModelError: when it is of none of the tasks.
    """
    called = (config.architectures or [""])[0]
    for kind in TASKS.values():
        if called and not is_made_by(kind.auto_class, called, config.model_type):
            continue
        task = kind.of_model(name, config, processor, ours=ours)
        if task is not None:
            return task.padded_by(processor)
    what = getattr(config, "problem_type", None) or called or "a task that is not known"
    raise ModelError(f"model {name!r} is for {what}; known tasks are {', '.join(TASKS)}")
