"""What makes a model's inputs of rows: a tokenizer, or what makes pictures into tensors."""

from typing import Any

from afcore.config import Config
from afcore.model.pretrained import load_image_processor, load_tokenizer
from afcore.tasks.known_tasks import task_class
from afcore.tasks.task import Processor

__all__ = ["load_processor", "processor_of"]


def load_processor(kind: Processor, name: str, max_length: int | None = None) -> Any:
    """Of a model.

    Args:
        kind: that its task wants.
        name: of the model.
        max_length: tokens to which a text is cut; None: as the tokenizer says.

    Raises:
        ModelError: when the model has none.
    """
    if kind == "image_processor":
        return load_image_processor(name)
    return load_tokenizer(name, max_length)


def processor_of(config: Config) -> Any:
    """Of a training, to be published with its model."""
    kind = task_class(config.task).processor
    return load_processor(kind, config.model.name, config.data.max_length)
