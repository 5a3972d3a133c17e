"""What a model is called where there is little room."""

__all__ = ["model_title"]

_NOT_NAMES = ("model", "models", "")


def model_title(name: str) -> str:
    """The last part of a model's name or path that says something."""
    parts = name.removeprefix("package:").split("/")
    return next((part for part in reversed(parts) if part not in _NOT_NAMES), parts[-1])
