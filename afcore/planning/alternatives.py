"""What an epoch takes on each number of workers, at each boundary, and what the modes choose."""

from pydantic import BaseModel, ConfigDict

from afcore.cost import Prices
from afcore.planning.forecast import Resources
from afcore.planning.resources import Alternative, ResourceDecision, choose_resources
from afcore.planning.scaling import RunWork
from afcore.planning.timing import Profile

__all__ = ["EpochAlternatives", "weigh_workers"]


class EpochAlternatives(BaseModel):
    """An epoch at one boundary from its first step to its last.

    Attributes:
        boundary: k.
        read_boundary: k where sets are kept, 0 for tokens; building is not in it.
        alternatives: by number of workers.
        chosen: number of workers by mode.
        limit_seconds: the longest that ``efficiency`` allows.
    """

    model_config = ConfigDict(frozen=True)

    boundary: int
    read_boundary: int
    alternatives: list[Alternative]
    chosen: dict[str, int]
    limit_seconds: float | None


def weigh_workers(
    profile: Profile, work: RunWork, resources: Resources, prices: Prices, *, caches: bool
) -> list[EpochAlternatives]:
    """Each boundary, 0 to L - 1, without a deadline or a budget.

    Args:
        profile: as measured.
        work: of the training.
        resources: what may be used.
        prices: in dollars.
        caches: whether an epoch reads the set at its boundary.
    """

    def choose(boundary: int, mode: str) -> ResourceDecision:
        return choose_resources(
            profile,
            work,
            boundary,
            boundary if caches else 0,
            mode=mode,
            max_workers=resources.max_workers,
            batch_size=resources.batch_size,
            prices=prices,
            min_workers=resources.min_workers,
            micro_batch=resources.micro_batch,
            memory=resources.memory,
        )

    rows = []
    for boundary in range(profile.compute.num_blocks):
        fastest, cheapest = (choose(boundary, mode) for mode in ("performance", "efficiency"))
        rows.append(
            EpochAlternatives(
                boundary=boundary,
                read_boundary=fastest.read_boundary,
                alternatives=fastest.alternatives,
                chosen={found.mode: found.num_workers for found in (fastest, cheapest)},
                limit_seconds=cheapest.limit_seconds,
            )
        )
    return rows
