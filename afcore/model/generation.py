"""How a model writes text: as the one that it was made from, whose blocks it has."""

from typing import Any

from transformers import GenerationConfig

from afcore.model.pretrained import locate

__all__ = ["generate_as"]


def generate_as(model: Any, name: str) -> None:
    """Give a model the generation settings of another: where its texts end, how it samples.

    A model that is built from its configuration alone has none, and what it was split with.

    Args:
        model: changed in place; left alone where it writes no text.
        name: of the other.

    Raises:
        ModelError: when there is no such folder any more.
    """
    if not model.can_generate():
        return
    path = locate(name)
    try:
        model.generation_config = GenerationConfig.from_pretrained(path)
    except OSError:  # none of its own: config.json says it, as Transformers takes it then
        model.generation_config = GenerationConfig.from_pretrained(
            path, config_file_name="config.json", _from_model_config=True
        )
