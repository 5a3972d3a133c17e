"""How many workers an epoch should have, and how its batches are cut to fit their memory.

Rules: ``performance`` takes the least predicted seconds; ``efficiency`` the least dollars among
those whose epoch takes no longer than the unfrozen epoch on all workers (dollars alone would
always choose one worker). A deadline or a budget for what is left of a training replaces either.
No I/O, no torch.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from afcore.cost import Prices
from afcore.planning.scaling import (
    BYTES_OF_MOMENTS,
    BYTES_OF_WEIGHT,
    Build,
    RunWork,
    WorkersForecast,
    forecast_workers,
)
from afcore.planning.timing import Profile

__all__ = [
    "Alternative",
    "EpochChoices",
    "MemoryModel",
    "ResourceDecision",
    "activation_bytes",
    "choose_resources",
    "choose_sequence",
    "worker_counts",
]

_MOST_PARTIAL_PLANS = 4096


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class MemoryModel(_Record):
    """What a worker's device must hold.

    Weights of the whole model, gradients and moments of the suffix, and what the backward pass
    needs of each token and trained block.

    Attributes:
        limit_bytes: of the device.
        example_tokens: of the longest example.
        block_token_bytes: activations of a token in a trained block; see :func:`activation_bytes`.
        weight_bytes: of a parameter.
        gradient_bytes: the same.
        moments_bytes: the same, of the optimizer.
    """

    limit_bytes: int
    example_tokens: int
    block_token_bytes: float
    weight_bytes: int = BYTES_OF_WEIGHT
    gradient_bytes: int = BYTES_OF_WEIGHT
    moments_bytes: int = BYTES_OF_MOMENTS

    def needed_bytes(self, num_parameters: Sequence[int], boundary: int, tokens: int) -> int:
        """At a boundary, with micro-batches of so many tokens."""
        trained = num_parameters[boundary] * (self.gradient_bytes + self.moments_bytes)
        blocks = len(num_parameters) - boundary
        activations = math.ceil(tokens * blocks * self.block_token_bytes)
        return num_parameters[0] * self.weight_bytes + trained + activations


def activation_bytes(hidden_size: int, num_heads: int, length: int) -> float:
    """Of a token and block under 16-bit autocast: ``34 h + 5 a s``.

    Korthikanti et al. 2022, arXiv 2205.05198, eq. 1, without the attention matrix where the kernel
    does not keep it: give ``num_heads`` 0 then.
    """
    return 34.0 * hidden_size + 5.0 * num_heads * length


class Alternative(_Record):
    """One number of workers: what an epoch on them would take. ``fits``: their memory holds it."""

    num_workers: int
    micro_batch: int
    accumulation: int
    seconds: float
    cost_usd: float
    fits: bool


class ResourceDecision(_Record):
    """Workers of an epoch, and why.

    Attributes:
        mode: whose rule chose.
        boundary: k, as the epoch starts.
        read_boundary: of the set that it reads; 0 for tokens.
        num_workers: chosen.
        micro_batch: examples of a worker in one pass.
        accumulation: passes of a worker in a step.
        forecast: of the epoch on them.
        alternatives: all counts that divide the global batch, the fewest first.
        limit_seconds: the longest epoch allowed: in ``efficiency``, the unfrozen one's on all.
        epochs_left: that a deadline or a budget was shared among.
        deadline_seconds: left; None for none.
        budget_usd: left; None for none.
        reachable_seconds: of the epochs left, at the rate chosen.
        reachable_usd: the same in dollars.
        feasible: memory, deadline and budget are kept, should nothing else freeze; else what was
            chosen comes closest.
    """

    mode: str
    boundary: int
    read_boundary: int
    num_workers: int
    micro_batch: int
    accumulation: int
    forecast: WorkersForecast
    alternatives: list[Alternative]
    limit_seconds: float | None = None
    epochs_left: int = 1
    deadline_seconds: float | None = None
    budget_usd: float | None = None
    reachable_seconds: float
    reachable_usd: float
    feasible: bool = True

    def text(self) -> str:
        """On one line."""
        weighed = ", ".join(
            f"{one.num_workers}: {one.seconds:.1f} s ${one.cost_usd:.4f}"
            f"{'' if one.fits else ' (memory too small)'}"
            for one in self.alternatives
        )
        step = f"micro-batch {self.micro_batch} x {self.accumulation}"
        return (
            f"boundary {self.boundary}, {self.mode}: {self.num_workers} worker"
            f"{'s' * (self.num_workers > 1)}, {step}; predicted {self.forecast.seconds:.1f} s "
            f"${self.forecast.cost_usd:.4f} (all-reduce {self.forecast.allreduce_seconds:.1f} s, "
            f"start {self.forecast.startup_seconds:.1f} s){self._limits()}; weighed {weighed}"
        )

    def _limits(self) -> str:
        wanted = []
        if self.limit_seconds is not None:
            wanted.append(f"at most {self.limit_seconds:.1f} s")
        if self.deadline_seconds is not None:
            wanted.append(f"{self.deadline_seconds:.1f} s left for {self.epochs_left} epochs")
        if self.budget_usd is not None:
            wanted.append(f"${self.budget_usd:.4f} left for {self.epochs_left} epochs")
        if self.feasible:
            return f" [{', '.join(wanted)}]" if wanted else ""
        reachable = f"${self.reachable_usd:.4f} and {self.reachable_seconds:.1f} s"
        return f" [NOT within {', '.join(wanted) or 'memory'}: the best is {reachable}]"


def worker_counts(batch_size: int, max_workers: int, min_workers: int = 1) -> list[int]:
    """Counts up to the largest that divide the global batch, so that all workers get the same."""
    largest = min(batch_size, max_workers)
    found = [n for n in range(min_workers, largest + 1) if batch_size % n == 0]
    if not found:
        raise ValueError(
            f"no number of workers from {min_workers} to {max_workers} divides the global batch "
            f"of {batch_size}"
        )
    return found


def choose_resources(
    profile: Profile,
    work: RunWork,
    boundary: int,
    read_boundary: int,
    *,
    mode: str,
    max_workers: int,
    batch_size: int,
    prices: Prices,
    min_workers: int = 1,
    micro_batch: int | None = None,
    memory: MemoryModel | None = None,
    build: Build | None = None,
    epochs_left: int = 1,
    deadline_seconds: float | None = None,
    budget_usd: float | None = None,
    first: bool = False,
    last: bool = False,
) -> ResourceDecision:
    """Choose, should the boundary stay.

    Args:
        profile: as measured.
        work: of the training.
        boundary: k, as the epoch starts.
        read_boundary: of the set that the epoch reads; 0 for tokens.
        mode: ``performance`` and ``efficiency`` choose, any other has all workers.
        max_workers: most workers; those that divide the batch are weighed.
        batch_size: examples of a step over all workers.
        prices: in dollars.
        min_workers: fewest.
        micro_batch: most examples of a worker in one pass; None: as memory allows.
        memory: of a worker's device; None: no limit is known.
        build: of a set that this epoch pays for.
        epochs_left: with this one.
        deadline_seconds: for the epochs left: the cheapest way to keep it is chosen.
        budget_usd: for the epochs left: the fastest way within it is chosen.
        first: of the training.
        last: of the training.

    Raises:
        ValueError: when no number of workers divides the batch.
    """
    counts = worker_counts(batch_size, max_workers, min_workers)

    def forecast(at: int, reads: int, split: "_Split", built: Build | None) -> WorkersForecast:
        return forecast_workers(
            profile,
            work,
            [at],
            num_workers=split.num_workers,
            read_boundary=reads,
            statistics=work.statistics and mode != "full",
            prices=prices,
            accumulation=split.accumulation,
            build=built,
            first=first,
            last=last,
        )

    splits = [_split(profile, boundary, n, batch_size, micro_batch, memory) for n in counts]
    forecasts = [forecast(boundary, read_boundary, split, build) for split in splits]
    alternatives = [
        Alternative(
            num_workers=split.num_workers,
            micro_batch=split.micro_batch,
            accumulation=split.accumulation,
            seconds=found.seconds,
            cost_usd=found.cost_usd,
            fits=split.fits,
        )
        for split, found in zip(splits, forecasts, strict=True)
    ]
    limit = None
    if mode == "efficiency" and deadline_seconds is None and budget_usd is None:
        whole = _split(profile, 0, counts[-1], batch_size, micro_batch, memory)
        limit = forecast(0, 0, whole, None).seconds
    chosen, sequence = _choose(alternatives, mode, limit, epochs_left, deadline_seconds, budget_usd)
    at = alternatives.index(chosen)
    return ResourceDecision(
        mode=mode,
        boundary=boundary,
        read_boundary=read_boundary,
        num_workers=chosen.num_workers,
        micro_batch=chosen.micro_batch,
        accumulation=chosen.accumulation,
        forecast=forecasts[at],
        alternatives=alternatives,
        limit_seconds=limit,
        epochs_left=epochs_left,
        deadline_seconds=deadline_seconds,
        budget_usd=budget_usd,
        reachable_seconds=sequence.seconds,
        reachable_usd=sequence.cost_usd,
        feasible=sequence.feasible and chosen.fits,
    )


class EpochChoices(_Record):
    """One alternative for each epoch, and what they take together."""

    chosen: list[Alternative]
    seconds: float
    cost_usd: float
    feasible: bool = True


def choose_sequence(
    epochs: Sequence[Sequence[Alternative]],
    *,
    deadline_seconds: float | None = None,
    budget_usd: float | None = None,
) -> EpochChoices:
    """The cheapest alternatives within a deadline; without one, the fastest within a budget.

    Epochs are merged one after another, and of partial plans only those are kept that no other
    beats in both seconds and dollars, which is exact; beyond 4,096 of them, every other one but
    the ends is let go. With both limits, the cheapest within the deadline has to be within the
    budget. What cannot be kept gives the plan that comes closest, marked infeasible.

    Args:
        epochs: alternatives of each.
        deadline_seconds: for all.
        budget_usd: for all.
    """
    front = [_Partial(0.0, 0.0, ())]
    for alternatives in epochs:
        front = _undominated(
            _Partial(plan.seconds + one.seconds, plan.cost_usd + one.cost_usd, (*plan.path, one))
            for plan in front
            for one in alternatives
        )
    # From the fastest, which is the dearest, to the slowest.
    in_time = [p for p in front if deadline_seconds is None or p.seconds <= deadline_seconds]
    in_budget = [p for p in front if budget_usd is None or p.cost_usd <= budget_usd]
    if deadline_seconds is not None:
        best = in_time[-1] if in_time else front[0]
    else:
        best = in_budget[0] if in_budget else front[-1]
    feasible = best in in_time and best in in_budget
    return EpochChoices(
        chosen=list(best.path), seconds=best.seconds, cost_usd=best.cost_usd, feasible=feasible
    )


@dataclass(frozen=True)
class _Partial:
    seconds: float
    cost_usd: float
    path: tuple[Alternative, ...]


@dataclass(frozen=True)
class _Split:
    num_workers: int
    micro_batch: int
    accumulation: int
    fits: bool


def _undominated(plans: Iterable[_Partial]) -> list[_Partial]:
    """By rising seconds and falling dollars."""
    kept: list[_Partial] = []
    for plan in sorted(plans, key=lambda one: (one.seconds, one.cost_usd)):
        if not kept or plan.cost_usd < kept[-1].cost_usd:
            kept.append(plan)
    while len(kept) > _MOST_PARTIAL_PLANS:
        kept = [*kept[:-1:2], kept[-1]]
    return kept


def _choose(
    alternatives: list[Alternative],
    mode: str,
    limit: float | None,
    epochs_left: int,
    deadline_seconds: float | None,
    budget_usd: float | None,
) -> tuple[Alternative, EpochChoices]:
    usable = [one for one in alternatives if one.fits] or alternatives[-1:]
    if mode not in ("performance", "efficiency"):
        chosen = alternatives[-1]
    elif deadline_seconds is not None or budget_usd is not None:
        sequence = choose_sequence(
            [usable] * epochs_left, deadline_seconds=deadline_seconds, budget_usd=budget_usd
        )
        # Epochs left are alike, so any may come first; the fastest leaves most room for surprises.
        return min(sequence.chosen, key=lambda one: one.seconds), sequence
    elif mode == "performance":
        chosen = min(usable, key=lambda one: (one.seconds, one.cost_usd))
    else:
        assert limit is not None
        quick = [one for one in usable if one.seconds <= limit]
        quick = quick or [min(usable, key=lambda one: one.seconds)]
        chosen = min(quick, key=lambda one: (one.cost_usd, one.seconds))
    total = EpochChoices(
        chosen=[chosen],
        seconds=epochs_left * chosen.seconds,
        cost_usd=epochs_left * chosen.cost_usd,
    )
    return chosen, total


def _split(
    profile: Profile,
    boundary: int,
    num_workers: int,
    batch_size: int,
    micro_batch: int | None,
    memory: MemoryModel | None,
) -> _Split:
    """The fewest passes whose micro-batch is allowed and fits."""
    share = batch_size // num_workers
    for accumulation in (n for n in range(1, share + 1) if share % n == 0):
        size = share // accumulation
        if micro_batch is not None and size > micro_batch:
            continue
        if memory is None or _fits(profile, boundary, size, memory):
            return _Split(num_workers, size, accumulation, True)
    return _Split(num_workers, 1, share, False)


def _fits(profile: Profile, boundary: int, micro_batch: int, memory: MemoryModel) -> bool:
    tokens = micro_batch * memory.example_tokens
    needed = memory.needed_bytes(profile.compute.num_parameters, boundary, tokens)
    return needed <= memory.limit_bytes
