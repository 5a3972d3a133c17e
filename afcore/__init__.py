"""AutoFreeze's core: adaptive freezing, activation sets and exact resumption.

Knows nothing of Prefect. ``afcore.fit`` trains in one call.

The way of the data through the rooms: ``data`` (text to batches) ->
``model`` (blocks) -> ``runs`` (an epoch from commit to commit, with ``planning`` of what
``measuring`` found, on the workers of ``launch``) -> ``training`` (its steps; ``freezing`` decides,
``activations`` bring what frozen blocks put out) -> ``results``. Everything lies in ``storage``.

Shape legend used in every docstring: ``b`` examples of a batch, ``s`` sequence positions
(padded), ``t`` tokens of a shard or a data set (unpadded), ``h`` hidden width, ``n`` examples
of a data set, ``c`` classes, ``k`` boundary, ``L`` number of blocks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afcore.notebook.fit_call import fit as fit
    from afcore.trainer_callback.freeze_callback import AutoFreezeCallback as AutoFreezeCallback

__all__ = ["AutoFreezeCallback", "fit"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: torch takes seconds."""
    if name == "fit":
        from afcore.notebook.fit_call import fit

        return fit
    if name == "AutoFreezeCallback":
        from afcore.trainer_callback.freeze_callback import AutoFreezeCallback

        return AutoFreezeCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
