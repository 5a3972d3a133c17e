"""What happened in a training, in one plain sentence: what was frozen, read, and why it stopped."""

from collections.abc import Sequence

from afcore.results.report import EpochReport
from afcore.tasks.scores import LOG_LOSS, Score

__all__ = ["what_happened"]


def what_happened(
    epochs: Sequence[EpochReport], num_blocks: int, num_planned: int, score: Score = LOG_LOSS
) -> str:
    """One sentence without a full stop.

    Args:
        epochs: that were trained, at least one.
        num_blocks: L.
        num_planned: epochs that might have been trained.
        score: the main one.
    """
    return f"{_frozen(epochs, num_blocks)}; {_ended(epochs, num_planned, score)}"


def _frozen(epochs: Sequence[EpochReport], num_blocks: int) -> str:
    first = epochs[0].boundary_start
    said = []
    if first:
        said.append(f"{_blocks(first, num_blocks)} frozen from the start")
    before = first
    for epoch in epochs:
        end = epoch.boundary_end
        if end > before:
            frozen = f"0-{end - 1}" if before else f"{_blocks(end, num_blocks)} frozen"
            said.append(f"{frozen} by the end of epoch {epoch.epoch}")
        elif end < before:
            thawed = f"blocks thawed down to {end}" if end else "all blocks thawed"
            said.append(f"{thawed} after epoch {epoch.epoch}")
        before = end
    if not said:
        return "nothing was frozen"
    read = [str(epoch.epoch) for epoch in epochs if epoch.read_from != "tokens"]
    if read:
        word = "epoch" if len(read) == 1 else "epochs"
        said.append(f"what they put out was read from the cache in {word} {', '.join(read)}")
    return ", ".join(said)


def _blocks(boundary: int, num_blocks: int) -> str:
    if boundary == 1:
        return f"block 0 of {num_blocks} was"
    return f"blocks 0-{boundary - 1} of {num_blocks} were"


def _ended(epochs: Sequence[EpochReport], num_planned: int, main: Score) -> str:
    done = len(epochs)
    if done >= num_planned:
        which = f"all {num_planned} epochs were" if num_planned > 1 else "one epoch was"
        return f"{which} trained"
    losses = [epoch.validation["loss"] for epoch in epochs]
    change = ""
    if len(losses) > 1:
        lowest = min(losses[:-1])
        fell = 1 - losses[-1] / lowest if lowest else 0.0
        change = (
            f": the last one lowered the validation loss by {100 * fell:.0f} %"
            if fell > 0
            else ": the validation loss no longer fell"
        )
        if main.stops:
            values = [epoch.validation[main.name] for epoch in epochs]
            change += (
                f", and {main.title} was {main.shown(values[-1])} after at most "
                f"{main.shown(max(values[:-1]))}"
            )
    return f"stopped after epoch {done} of {num_planned}{change}"
