"""``autofreeze check-model``: what a model can do here, and what that stands on."""

from functools import partial

from rich.console import Console
from rich.table import Table

from afcore.conformance.verdict import Conformance
from afcore.errors import some_of
from afcore.model.layer_drop import LAYER_DROP
from pipelines.cli.consoles import say
from pipelines.tables import ALL, table

__all__ = ["print_conformance"]


def print_conformance(found: Conformance, console: Console) -> None:
    """As text, and a table with a row for each boundary that was tried."""
    tell = partial(say, to=console)
    if found.model is not None:
        tell(f"model: {found.model}, for {found.task}; weights: {found.weights}")
    for note in found.notes:
        tell(f"note: {note}")
    if found.blocks is not None:
        blocks = found.blocks
        tell(f"embeddings: {some_of(blocks.embeddings) or 'no parameters'}")
        tell(f"blocks: {blocks.count} of {blocks.kind}, {blocks.names[0]} to {blocks.names[-1]}")
        tell(f"head: {some_of(blocks.head) or 'no parameters'}")
        tell(f"last block at one position: {blocks.last_block}")
    if found.compared:
        console.print(_differences(found))
    skipped = {name: value for name, value in found.drawn.items() if name.endswith(LAYER_DROP)}
    drawn = {name: value for name, value in found.drawn.items() if name not in skipped}
    for what, settings in (
        ("drawn in training, above the boundary alone", drawn),
        ("blocks skipped in training, not once some are frozen", skipped),
    ):
        if settings:
            tell(f"{what}: {', '.join(f'{name} {value:g}' for name, value in settings.items())}")
    if found.kept:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.kept.items())
        tell(f"statistics of batches, not changed below the boundary: {kinds}")
    if found.bytes_per_token:
        sizes = ", ".join(f"{size:,} in {dtype}" for dtype, size in found.bytes_per_token.items())
        wide = ", ".join(f"{name} {width}" for name, width in found.widths.items())
        tell(f"bytes of a set per token: {sizes} (widths: {wide})")
    tell(f"verdict: {found.verdict}: {found.reason}")


def _differences(found: Conformance) -> Table:
    columns = ["boundary", "outputs", "loss", "gradients", "stored: outputs", "loss", "gradients"]
    rows = []
    for one in found.compared:
        sides = [one.split, one.stored]
        cells = [
            f"{value:.0e}" if side else "-"
            for side in sides
            for value in ((side.outputs, side.loss, side.gradients) if side else (0.0,) * 3)
        ]
        rows.append([str(one.boundary), *cells])
    title = f"Largest differences to the whole model, in {found.precision}, relative"
    return table(title, columns, rows, wrapped=ALL)
