"""What an epoch should read, and whether to write a set for it: the least predicted seconds."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from afcore.planning.scaling import build_seconds_on, forecast_epoch_on
from afcore.planning.timing import EpochForecast, Profile, Reading, Work

__all__ = ["Source", "SourceDecision", "choose_source"]

Source = Literal["tokens", "current", "set"]
"""Run everything; read the set at hand and run the blocks above it; have the set at the boundary.
"""


class SourceDecision(BaseModel):
    """What an epoch reads, and why.

    Attributes:
        source: see :data:`Source`.
        boundary: k, as the epoch starts.
        read_boundary: of the set that is read; 0 for tokens.
        exists: a set at the boundary was there already.
        epochs_left: that the choice was made for.
        set_bytes: of a set.
        build_seconds: predicted of the set that this has built; 0 for none.
        forecast: of the next epoch, should the boundary stay.
        totals: predicted seconds of all epochs left, building included, by source.
        scale: of the profile's seconds, as the epoch before showed it.
    """

    model_config = ConfigDict(frozen=True)

    source: Source
    boundary: int
    read_boundary: int
    exists: bool
    epochs_left: int
    set_bytes: int
    build_seconds: float
    forecast: EpochForecast
    totals: dict[Source, float]
    scale: float = 1.0

    def text(self) -> str:
        """On one line."""
        chosen = {
            "tokens": "compute from tokens",
            "current": f"go on reading activations@{self.read_boundary}",
            "set": f"{'read' if self.exists else 'write and read'} activations@{self.boundary}",
        }
        weighed = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.totals.items())
        return (
            f"boundary {self.boundary}: {chosen[self.source]}; predicted {weighed} for "
            f"{self.epochs_left} epochs with building; the next epoch "
            f"{self.forecast.train_seconds:.1f} s (prefix {self.forecast.prefix_seconds:.1f}, "
            f"suffix {self.forecast.suffix_seconds:.1f}, read {self.forecast.read_seconds:.1f}), "
            f"building {self.build_seconds:.1f} s, a set {self.set_bytes / 1e6:.1f} MB"
        )


def choose_source(
    profile: Profile,
    work: Work,
    *,
    boundary: int,
    read_boundary: int,
    exists: bool,
    epochs_left: int,
    reading: Reading,
    statistics: bool,
    scale: float = 1.0,
    max_set_bytes: int | None = None,
    num_workers: int = 1,
    build_workers: int = 1,
) -> SourceDecision:
    """The source with the least predicted seconds over the epochs left, should nothing else freeze.

    A set that is there already costs nothing to build, but is read only if that is cheaper than
    computing. Among equals the simpler wins.

    Args:
        profile: as measured.
        work: of the next epoch.
        boundary: k, as the next epoch starts.
        read_boundary: of the set at hand; 0 for none.
        exists: whether the store has the set at ``boundary``.
        epochs_left: that would read it.
        reading: of an epoch that reads a set.
        statistics: whether a policy decides.
        scale: of the profile's seconds.
        max_set_bytes: a larger set is not built; one that is there may be read.
        num_workers: that are taken to train.
        build_workers: that build the set, at the end of the epoch before.
    """
    profile = profile.scaled(scale)
    read_boundaries: dict[Source, int] = {"tokens": 0}
    if read_boundary:
        read_boundaries["current"] = read_boundary
    fits = max_set_bytes is None or work.set_bytes <= max_set_bytes
    if boundary > read_boundary and (exists or fits):
        read_boundaries["set"] = boundary
    forecasts = {
        source: forecast_epoch_on(
            profile,
            work,
            [boundary],
            num_workers=num_workers,
            read_boundary=at,
            reading=reading,
            statistics=statistics,
        )
        for source, at in read_boundaries.items()
    }
    build = (
        0.0 if exists else build_seconds_on(profile, work, boundary, read_boundary, build_workers)
    )
    totals = {
        source: epochs_left * forecast.train_seconds + (build if source == "set" else 0.0)
        for source, forecast in forecasts.items()
    }
    source = min(totals, key=lambda name: totals[name])
    return SourceDecision(
        source=source,
        boundary=boundary,
        read_boundary=read_boundaries[source],
        exists=exists,
        epochs_left=epochs_left,
        set_bytes=work.set_bytes,
        build_seconds=build if source == "set" else 0.0,
        forecast=forecasts[source],
        totals=totals,
        scale=scale,
    )
