"""On how many workers an epoch is trained, and how its batches are cut to fit their memory.

``performance`` takes the least predicted seconds; ``efficiency`` the least dollars among those
whose epoch takes no longer than the unfrozen epoch on all workers (dollars alone would always
choose one worker). A deadline or a budget for what is left of a training replaces either.

No I/O, no torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from afcore.cost import Prices, Usage, cost_usd
from afcore.planning.forecast import (
    BYTES_OF_MOMENTS,
    BYTES_OF_WEIGHT,
    EpochSetup,
    Forecast,
    Work,
    forecast_epoch,
)
from afcore.planning.profile import Profile, Record

__all__ = [
    "Allowed",
    "MemoryModel",
    "Standing",
    "WorkersChoice",
    "activation_bytes",
    "choose_sequence",
    "choose_workers",
    "worker_counts",
]

_MOST_PARTIAL_PLANS = 4096


class MemoryModel(Record):
    """What a worker's device must hold.

    Weights of the whole model, gradients and moments of the suffix, and what the backward pass
    needs of each token and trained block.

    Attributes:
        limit_bytes: of the device.
        example_tokens: of the longest example.
        block_token_bytes: activations of a token in a trained block; see :func:`activation_bytes`.
        again_token_bytes: of a token in the one block that is computed again on the way back.
        weight_bytes: of a parameter.
        gradient_bytes: the same.
        moments_bytes: the same, of the optimizer.
    """

    limit_bytes: int
    example_tokens: int
    block_token_bytes: float
    again_token_bytes: float = 0.0
    weight_bytes: int = BYTES_OF_WEIGHT
    gradient_bytes: int = BYTES_OF_WEIGHT
    moments_bytes: int = BYTES_OF_MOMENTS

    def needed_bytes(self, num_parameters: Sequence[int], boundary: int, tokens: int) -> int:
        """At a boundary, with micro-batches of so many tokens."""
        trained = num_parameters[boundary] * (self.gradient_bytes + self.moments_bytes)
        blocks = len(num_parameters) - boundary
        activations = int((blocks * self.block_token_bytes + self.again_token_bytes) * tokens)
        return num_parameters[0] * self.weight_bytes + trained + activations


def activation_bytes(hidden_size: int, num_heads: int, length: int) -> float:
    """Of a token and block under 16-bit autocast: ``34 h + 5 a s``.

    Korthikanti et al. 2022, arXiv 2205.05198, eq. 1, without the attention matrix where the kernel
    does not keep it: give ``num_heads`` 0 then.
    """
    return 34.0 * hidden_size + 5.0 * num_heads * length


@dataclass(frozen=True)
class Allowed:
    """What a training may use; the default is one worker, and no set.

    Attributes:
        mode: ``performance`` and ``efficiency`` choose workers, any other has all of them.
        prices: in dollars.
        batch_size: examples of a step over all workers.
        max_workers: most; those that divide the batch are weighed.
        min_workers: fewest.
        micro_batch: most examples of a worker in one pass; None: as memory allows.
        memory: of a worker's device; None: no limit is known.
        sets: ``on`` has every set, ``off`` none, ``auto`` those that pay.
        max_set_bytes: a larger set is not built; one that is there may be read.
        deadline_seconds: for the whole training: the cheapest way to keep it is chosen.
        budget_usd: the same: the fastest way within it is chosen.
    """

    mode: str
    prices: Prices
    batch_size: int = 1
    max_workers: int = 1
    min_workers: int = 1
    micro_batch: int | None = None
    memory: MemoryModel | None = None
    sets: Literal["auto", "on", "off"] = "off"
    max_set_bytes: int | None = None
    deadline_seconds: float | None = None
    budget_usd: float | None = None

    @property
    def chooses(self) -> bool:
        """Whether there are workers to choose from."""
        return self.mode in ("performance", "efficiency") and self.max_workers > 1

    @property
    def measures(self) -> bool:
        """Whether anything is decided from measurements; else the configuration has."""
        return self.sets == "auto" or self.chooses


@dataclass(frozen=True)
class Standing:
    """Where a training stands before an epoch.

    Attributes:
        epoch: the one to come, from 1.
        num_epochs: of the training, should it not stop before.
        boundary: k, as the epoch starts.
        set_at_hand: boundary of the set that was read last; 0 for none.
        exists: whether the store has the set at ``boundary``.
        builders: workers of the epoch before, which would build a set.
        scale: of the profile's seconds of computing, as the epoch before showed it.
        solves_head: whether the epoch does, before its first step.
        spent_seconds: of the training so far.
        spent_usd: the same.
    """

    epoch: int
    num_epochs: int
    boundary: int
    set_at_hand: int = 0
    exists: bool = False
    builders: int = 1
    scale: float = 1.0
    solves_head: bool = False
    spent_seconds: float = 0.0
    spent_usd: float = 0.0

    @property
    def epochs_left(self) -> int:
        """With the one to come."""
        return self.num_epochs - self.epoch + 1


class WorkersChoice(Record):
    """Workers of an epoch, and why.

    Attributes:
        mode: whose rule chose.
        forecast: of the epoch on those chosen.
        alternatives: all counts that divide the global batch, the fewest first; building is not in.
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
    forecast: Forecast
    alternatives: list[Forecast]
    limit_seconds: float | None = None
    epochs_left: int = 1
    deadline_seconds: float | None = None
    budget_usd: float | None = None
    reachable_seconds: float
    reachable_usd: float
    feasible: bool = True

    @property
    def num_workers(self) -> int:
        """Chosen."""
        return self.forecast.setup.num_workers

    def text(self) -> str:
        """On one line."""
        weighed = ", ".join(
            f"{one.setup.num_workers}: {one.seconds:.1f} s ${one.cost_usd:.4f}"
            f"{'' if one.setup.fits else ' (memory too small)'}"
            for one in self.alternatives
        )
        chosen, setup = self.forecast, self.forecast.setup
        return (
            f"boundary {setup.boundaries[0]}, {self.mode}: {setup.num_workers} worker"
            f"{'s' * (setup.num_workers > 1)}, micro-batch {setup.micro_batch} x "
            f"{setup.accumulation:g}; predicted {chosen.seconds:.1f} s ${chosen.cost_usd:.4f} "
            f"(all-reduce {chosen.allreduce_seconds:.1f} s, start {chosen.startup_seconds:.1f} s)"
            f"{self._limits()}; weighed {weighed}"
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


def choose_workers(
    profile: Profile,
    work: Work,
    allowed: Allowed,
    at: Standing,
    read_boundary: int,
    building_seconds: float = 0.0,
) -> WorkersChoice:
    """The workers of the epoch to come, should the boundary stay.

    Args:
        profile: as measured.
        work: of the epochs left.
        allowed: for the whole training.
        at: before the epoch.
        read_boundary: of the set that the epoch reads; 0 for tokens.
        building_seconds: of that set, before the epoch.

    Raises:
        ValueError: when no number of workers divides the batch.
    """
    counts = worker_counts(allowed.batch_size, allowed.max_workers, allowed.min_workers)

    def forecast(setup: EpochSetup) -> Forecast:
        return forecast_epoch(profile, work, setup, allowed.prices)

    shared = EpochSetup(
        boundaries=[at.boundary],
        read_boundary=read_boundary,
        first=at.epoch == 1,
        last=at.epoch == at.num_epochs,
    )
    alternatives = [forecast(_share(profile, allowed, shared, count)) for count in counts]
    deadline, budget = _left(allowed, at, building_seconds)
    limit = None
    if allowed.mode == "efficiency" and deadline is None and budget is None:
        unfrozen = shared.model_copy(update={"boundaries": [0], "read_boundary": 0})
        limit = forecast(_share(profile, allowed, unfrozen, counts[-1])).seconds
    usable = [one for one in alternatives if one.setup.fits] or alternatives[-1:]
    feasible, totals = True, None
    if not allowed.chooses:
        chosen = alternatives[-1]
    elif deadline is not None or budget is not None:
        found = choose_sequence(
            [usable] * at.epochs_left, deadline_seconds=deadline, budget_usd=budget
        )
        # Epochs left are alike, so any may come first; the fastest leaves most room for surprises.
        chosen = min(found.chosen, key=lambda one: one.seconds)
        feasible, totals = found.feasible, (found.seconds, found.cost_usd)
    elif limit is None:
        chosen = min(usable, key=lambda one: (one.seconds, one.cost_usd))
    else:
        quick = [one for one in usable if one.seconds <= limit]
        quick = quick or [min(usable, key=lambda one: one.seconds)]
        chosen = min(quick, key=lambda one: (one.cost_usd, one.seconds))
    seconds, dollars = totals or (
        at.epochs_left * chosen.seconds,
        at.epochs_left * chosen.cost_usd,
    )
    return WorkersChoice(
        mode=allowed.mode,
        forecast=chosen,
        alternatives=alternatives,
        limit_seconds=limit,
        epochs_left=at.epochs_left,
        deadline_seconds=deadline,
        budget_usd=budget,
        reachable_seconds=seconds,
        reachable_usd=dollars,
        feasible=feasible and chosen.setup.fits,
    )


def worker_counts(batch_size: int, max_workers: int, min_workers: int = 1) -> list[int]:
    """Counts up to the largest that divide the global batch, so that all workers get the same.

    Raises:
        ValueError: when there is none.
    """
    largest = min(batch_size, max_workers)
    found = [n for n in range(min_workers, largest + 1) if batch_size % n == 0]
    if not found:
        raise ValueError(
            f"no number of workers from {min_workers} to {max_workers} divides the global batch "
            f"of {batch_size}"
        )
    return found


def _left(
    allowed: Allowed, at: Standing, building_seconds: float
) -> tuple[float | None, float | None]:
    """Of (the deadline, the budget), once the set is built."""
    deadline, budget = allowed.deadline_seconds, allowed.budget_usd
    if deadline is not None:
        deadline -= at.spent_seconds + building_seconds
    if budget is not None:
        building = Usage(worker_seconds=at.builders * building_seconds)
        budget -= at.spent_usd + cost_usd(building, allowed.prices)
    return deadline, budget


def _share(profile: Profile, allowed: Allowed, setup: EpochSetup, count: int) -> EpochSetup:
    """On so many workers, in the fewest passes whose micro-batch is allowed and fits."""
    share, memory = allowed.batch_size // count, allowed.memory
    num_parameters, boundary = profile.compute.num_parameters, setup.boundaries[0]

    def fits(size: int) -> bool:
        if memory is None:
            return True
        needed = memory.needed_bytes(num_parameters, boundary, size * memory.example_tokens)
        return needed <= memory.limit_bytes

    most = share if allowed.micro_batch is None else allowed.micro_batch
    sizes = [share // n for n in range(1, share + 1) if share % n == 0]
    size = next((size for size in sizes if size <= most and fits(size)), None)
    cut = {"micro_batch": size or 1, "accumulation": share // (size or 1), "fits": size is not None}
    return setup.model_copy(update={"num_workers": count, **cut})


@dataclass(frozen=True)
class _Sequence:
    """One alternative for each epoch, and what they take together."""

    seconds: float
    cost_usd: float
    chosen: tuple[Forecast, ...]
    feasible: bool = True


def choose_sequence(
    epochs: Sequence[Sequence[Forecast]],
    *,
    deadline_seconds: float | None = None,
    budget_usd: float | None = None,
) -> _Sequence:
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
    front = [_Sequence(0.0, 0.0, ())]
    for alternatives in epochs:
        front = _undominated(
            _Sequence(plan.seconds + one.seconds, plan.cost_usd + one.cost_usd, (*plan.chosen, one))
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
    return replace(best, feasible=best in in_time and best in in_budget)


def _undominated(plans: Iterable[_Sequence]) -> list[_Sequence]:
    """By rising seconds and falling dollars."""
    kept: list[_Sequence] = []
    for plan in sorted(plans, key=lambda one: (one.seconds, one.cost_usd)):
        if not kept or plan.cost_usd < kept[-1].cost_usd:
            kept.append(plan)
    while len(kept) > _MOST_PARTIAL_PLANS:
        kept = [*kept[:-1:2], kept[-1]]
    return kept
