"""How an epoch is to be trained: one choice, live when an epoch ends and in a plan.

What it reads is chosen by the least predicted seconds over the epochs left, should the boundary
stay; a set above a boundary that fell serves no longer. Its workers are :mod:`.choose_workers`'s.

No I/O, no torch.
"""

from dataclasses import replace
from typing import Literal

from afcore.planning.choose_workers import Allowed, Standing, WorkersChoice, choose_workers
from afcore.planning.forecast import (
    EpochSetup,
    Forecast,
    Work,
    build_seconds,
    forecast_epoch,
)
from afcore.planning.profile import Profile, Record

__all__ = ["EpochChoice", "Source", "SourceChoice", "choose_epoch"]

Source = Literal["tokens", "current", "set"]
"""Run everything; read the set at hand and run the blocks above it; have the set at the boundary.
"""


class SourceChoice(Record):
    """What an epoch reads, and why.

    Attributes:
        source: see :data:`Source`.
        exists: a set at the boundary was there already.
        epochs_left: that the choice was made for.
        set_bytes: of a set.
        totals: predicted seconds of all epochs left, building included, by source.
    """

    source: Source
    exists: bool
    epochs_left: int
    set_bytes: int
    totals: dict[Source, float]


class EpochChoice(Record):
    """How an epoch is to be trained, and why.

    Attributes:
        forecast: of the epoch, should its boundary stay, with the set that is built for it.
        scale: of the profile's seconds that it was made with.
        source: why it reads what it reads; None where no measurement decided.
        workers: why it has its workers; None where there was nothing to choose.
    """

    forecast: Forecast
    scale: float = 1.0
    source: SourceChoice | None = None
    workers: WorkersChoice | None = None

    @property
    def feasible(self) -> bool:
        """Memory holds it, and a deadline or a budget is kept."""
        return self.forecast.setup.fits and (self.workers is None or self.workers.feasible)

    def source_text(self) -> str | None:
        """What it reads, and why, on one line."""
        if self.source is None:
            return None
        found, setup, made = self.forecast, self.forecast.setup, self.source
        boundary = setup.boundaries[0]
        chosen = {
            "tokens": "compute from tokens",
            "current": f"go on reading activations@{setup.read_boundary}",
            "set": f"{'read' if made.exists else 'write and read'} activations@{boundary}",
        }
        weighed = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in made.totals.items())
        epochs = f"{made.epochs_left} epoch{'' if made.epochs_left == 1 else 's'}"
        return (
            f"boundary {boundary}: {chosen[made.source]}; predicted {weighed} for "
            f"{epochs} with building; the next epoch {found.train_seconds:.1f} s "
            f"(prefix {found.prefix_seconds:.1f}, suffix {found.suffix_seconds:.1f}, read "
            f"{found.read_seconds:.1f}), building {found.materialize_seconds:.1f} s, a set "
            f"{made.set_bytes / 1e6:.1f} MB"
        )


def choose_epoch(profile: Profile, work: Work, allowed: Allowed, at: Standing) -> EpochChoice:
    """How the epoch to come is to be trained.

    Args:
        profile: as measured.
        work: of the epochs left.
        allowed: for the whole training.
        at: before the epoch.
    """
    profile = profile.scaled(at.scale)
    if allowed.mode == "full":
        work = replace(work, statistics=False)
    if at.set_at_hand > at.boundary:
        at = replace(at, set_at_hand=0)
    source, read_boundary = None, at.set_at_hand
    if allowed.sets == "auto":
        source, read_boundary = _choose_source(profile, work, allowed, at)
    elif allowed.sets == "on" and _may_have_set(work, allowed, at):
        read_boundary = at.boundary
    built_from, building = None, 0.0
    if read_boundary > at.set_at_hand and not at.exists:
        built_from = at.set_at_hand
        building = build_seconds(profile, work, read_boundary, built_from, at.builders)
    workers = choose_workers(profile, work, allowed, at, read_boundary, building)
    setup = workers.forecast.setup.model_copy(
        update={
            "built_from": built_from,
            "builders": at.builders,
            "solves_head": at.solves_head,
        }
    )
    return EpochChoice(
        forecast=forecast_epoch(profile, work, setup, allowed.prices),
        scale=at.scale,
        source=source,
        workers=workers if allowed.chooses else None,
    )


def _choose_source(
    profile: Profile, work: Work, allowed: Allowed, at: Standing
) -> tuple[SourceChoice, int]:
    """The source with the least predicted seconds over the epochs left, and its boundary.

    A set that is there already costs nothing to build, but is read only if that is cheaper than
    computing. Among equals the simpler wins. Weighed for as many workers as would be chosen if the
    set were there.
    """
    workers = choose_workers(profile, work, allowed, at, at.boundary)
    boundaries: dict[Source, int] = {"tokens": 0}
    if at.set_at_hand:
        boundaries["current"] = at.set_at_hand
    if _may_have_set(work, allowed, at):
        boundaries["set"] = at.boundary
    totals = {}
    for source, read_boundary in boundaries.items():
        setup = EpochSetup(
            boundaries=[at.boundary],
            read_boundary=read_boundary,
            num_workers=workers.num_workers,
        )
        seconds = forecast_epoch(profile, work, setup).train_seconds
        totals[source] = at.epochs_left * seconds
    if "set" in totals and not at.exists:
        totals["set"] += build_seconds(profile, work, at.boundary, at.set_at_hand, at.builders)
    chosen = min(totals, key=lambda name: totals[name])
    choice = SourceChoice(
        source=chosen,
        exists=at.exists,
        epochs_left=at.epochs_left,
        set_bytes=work.set_bytes,
        totals=totals,
    )
    return choice, boundaries[chosen]


def _may_have_set(work: Work, allowed: Allowed, at: Standing) -> bool:
    """Whether a set at the boundary could be had that is not at hand."""
    holds = allowed.max_set_bytes is None or work.set_bytes <= allowed.max_set_bytes
    return at.boundary > at.set_at_hand and (at.exists or holds)
