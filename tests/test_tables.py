"""Tables on the console and as Markdown."""

import io

from rich.console import Console

from afcore.results.markdown import markdown_table
from pipelines.tables import ALL, table


def shown(width: int, **options: float) -> list[str]:
    made = table("title", ("name", "n"), [("a b", "1"), ("c", "20")], **options)
    console = Console(file=io.StringIO(), width=width)
    console.print(made)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_columns_are_aligned_and_cut_or_broken() -> None:
    title, _, head, _, first, second, _ = shown(40, left=1)
    assert title.rstrip() == "title"
    assert (head, first, second) == ("┃ name ┃  n ┃", "│ a b  │  1 │", "│ c    │ 20 │")
    assert shown(40)[5] == "│    c │ 20 │"
    assert shown(10, left=1)[4] == "│ a… │ 1 │"
    assert shown(11, left=ALL, wrapped=ALL)[4:6] == ["│ a  │ 1  │", "│ b  │    │"]


def test_a_table_as_markdown() -> None:
    made = markdown_table(["split", "loss"], [["test", "0.5"]])
    assert made == "| split | loss |\n|---|---|\n| test | 0.5 |"
