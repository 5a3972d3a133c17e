"""Which head a model gets when it is looked at: the one it was saved with, or that of a task."""

from dataclasses import dataclass
from typing import Any

import transformers

from afcore.errors import ConfigError
from afcore.tasks.known_tasks import TASKS, task_class

__all__ = ["HEADS", "Head", "find_head"]

HEADS: dict[str, str] = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
    "video-classification": "AutoModelForVideoClassification",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "text-generation": "AutoModelForCausalLM",
    "fill-mask": "AutoModelForMaskedLM",
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
    "speech-to-characters": "AutoModelForCTC",
    "image-text-to-text": "AutoModelForImageTextToText",
    "image-segmentation": "AutoModelForSemanticSegmentation",
    "depth-estimation": "AutoModelForDepthEstimation",
    "object-detection": "AutoModelForObjectDetection",
    "time-series": "AutoModelForTimeSeriesPrediction",
}
"""Classes of ``transformers`` by the hub's names for tasks; a model's first is its default."""


@dataclass(frozen=True)
class Head:
    """A model's head.

    Attributes:
        task: that it is for.
        auto_class: of ``transformers``, that makes the model with it.
        why: it was taken.
    """

    task: str
    auto_class: str
    why: str


def find_head(config: Any, task: str | None) -> Head | None:
    """The head of a task; without one, that of the model's architecture, else its default.

    Args:
        config: of the model.
        task: a task of ours, or one of :data:`HEADS`.

    Returns:
        None where Transformers knows no such head for this model.

    Raises:
        ConfigError: when nobody knows the task.
    """
    if task is not None:
        auto_class = task_class(task).auto_class if task in TASKS else HEADS.get(task)
        if auto_class is None:
            known = ", ".join(dict.fromkeys([*TASKS, *HEADS]))
            raise ConfigError(f"--task: there is none called {task!r}; known are {known}")
        return Head(task, auto_class, "as --task says") if _classes(auto_class, config) else None
    saved = set(getattr(config, "architectures", None) or [])
    having = {name: found for name, auto in HEADS.items() if (found := _classes(auto, config))}
    for name, classes in having.items():
        if saved & classes:
            return Head(name, HEADS[name], "as it was saved")
    return next((Head(name, HEADS[name], "the first that it can have") for name in having), None)


def _classes(auto_class: str, config: Any) -> set[str]:
    """Names of the classes that an Auto class makes of a configuration."""
    mapping = getattr(transformers, auto_class)._model_mapping
    if type(config) not in mapping:
        return set()
    found = mapping[type(config)]
    return {one.__name__ for one in (found if isinstance(found, tuple) else (found,))}
