"""What a pass may change of a model beside its output: plain values that its modules hold."""

from torch import nn

__all__ = ["changed_setting", "own_settings"]


def own_settings(model: nn.Module) -> dict[str, object]:
    """Plain values that modules hold by themselves: a pass that changes them is remembered."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key != "training" and isinstance(value, bool | int | float | str)
    }


def changed_setting(before: dict[str, object], after: dict[str, object]) -> str | None:
    """Why what a block puts out depends on what the model was asked before; None: it does not.

    Args:
        before: :func:`own_settings` of a model that was not asked yet.
        after: of the same, once it was.
    """
    names = [name for name, value in after.items() if before.get(name, value) != value]
    if not names:
        return None
    return (
        f"a pass changes its own settings for those that follow ({names[0]} from "
        f"{before[names[0]]!r} to {after[names[0]]!r})."
    )
