"""A table as Markdown, of cells that are texts: a stroke or a new line in them ends no cell."""

from collections.abc import Iterable, Sequence

__all__ = ["markdown_table"]


def markdown_table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A line for the columns' names, one below it, and one a row; the last ends with no newline."""
    lines = [columns, *rows]
    head, *body = (f"| {' | '.join(map(_escaped, line))} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(columns), *body])


def _escaped(cell: str) -> str:
    return " ".join(cell.splitlines()).replace("|", r"\|")
