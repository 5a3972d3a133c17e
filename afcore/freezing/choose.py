"""The policy that a configuration names."""

from functools import partial

from afcore.freezing.decisions import FreezePolicy, FreezeState
from afcore.freezing.gradient_norm import gradient_norm_test
from afcore.freezing.guarded import guarded_test
from afcore.freezing.schedules import linear_schedule, never

__all__ = ["choose_policy", "resolve_depth"]


def choose_policy(
    policy: str,
    *,
    num_blocks: int,
    percentile: float,
    depth: int | None,
    patience: int,
    noise_ratio: float,
) -> tuple[FreezePolicy, FreezeState]:
    """A policy, with its first state.

    Args:
        policy: ``guarded``, ``gradient_norm``, ``static``, ``linear`` or ``none``.
        num_blocks: L.
        percentile: for ``gradient_norm``.
        depth: blocks frozen from the start (``static``, default half of them) or at the end
            (``linear``, default all but one).
        patience: for ``guarded``.
        noise_ratio: for ``guarded``.

    Raises:
        ValueError: for a depth that leaves no block to train.
    """
    if depth is not None and depth > num_blocks - 1:
        raise ValueError(
            f"freezing.depth is {depth}, but of {num_blocks} blocks at most {num_blocks - 1} can "
            "be frozen: the last one always trains"
        )
    if policy == "guarded":
        rule = partial(guarded_test, patience=patience, noise_ratio=noise_ratio)
        return rule, FreezeState()
    if policy == "gradient_norm":
        return partial(gradient_norm_test, percentile=percentile), FreezeState()
    if policy == "linear":
        final = resolve_depth(policy, num_blocks, depth)
        return partial(linear_schedule, depth=final), FreezeState()
    if policy == "static":
        return never, FreezeState(resolve_depth(policy, num_blocks, depth))
    return never, FreezeState()


def resolve_depth(policy: str, num_blocks: int, depth: int | None) -> int:
    """Blocks that a policy freezes at most; without a ``depth``, half of them if ``static``."""
    if depth is not None:
        return depth
    return num_blocks // 2 if policy == "static" else num_blocks - 1
