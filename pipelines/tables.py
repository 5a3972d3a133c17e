"""A table on the console, of cells that are texts: brackets in them are no markup."""

import math
from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

__all__ = ["ALL", "table"]

ALL = math.inf
"""Of the columns."""


def table(
    title: str | None,
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    left: float = 0,
    wrapped: float = 0,
) -> Table:
    """Its title and caption stand on the left.

    Args:
        title: above it.
        columns: their names.
        rows: a cell a column.
        left: so many columns, from the first, are aligned to the left; the others to the right.
        wrapped: the cells of so many columns, from the first, go on in the next line where the
            console is narrow; those of the others are cut.
    """
    made = Table(title=title, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        made.add_column(
            column, justify="left" if number < left else "right", no_wrap=number >= wrapped
        )
    for row in rows:
        made.add_row(*map(escape, row))
    return made
