"""Parameters that functions of installed packages document, in numpydoc's sections.

A section has a name with a line of hyphens under it, and an entry is a line ``names : type`` with
an indented description: https://numpydoc.readthedocs.io/en/latest/format.html.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from afcore.data.builtin.python_files import documented, parsed_files

__all__ = ["PACKAGES", "DocumentedFunction", "Entry", "documented_functions"]

PACKAGES = ("networkx", "numpy", "pandas", "scipy", "sklearn")
_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}[ ]*$", re.MULTILINE)
_ENTRY = re.compile(r"^(\S.*?)[ ]*(?::[ ]+(\S.*))?$")


@dataclass(frozen=True)
class Entry:
    """Of a section.

    Attributes:
        names: as they are written: one, or some with commas; of a value that is returned, perhaps
            none.
        type: of it; may be blank.
        description: on one line; may be blank.
    """

    names: str
    type: str
    description: str


@dataclass(frozen=True)
class DocumentedFunction:
    """A function, method or class.

    Attributes:
        name: of it.
        summary: the first paragraph, on one line.
        parameters: in order.
        returns: in order.
    """

    name: str
    summary: str
    parameters: tuple[Entry, ...]
    returns: tuple[Entry, ...]


def documented_functions(data_set: str, num_per_package: int) -> Iterator[DocumentedFunction]:
    """Those of :data:`PACKAGES` that document parameters.

    Args:
        data_set: that is made of them, for the message when a package is missing.
        num_per_package: at most.
    """
    for package in PACKAGES:
        found: dict[DocumentedFunction, None] = {}
        for tree in parsed_files(package, data_set):
            found.update(dict.fromkeys(_functions(tree)))
            if len(found) >= num_per_package:
                break
        yield from list(found)[:num_per_package]


def _functions(tree: ast.Module) -> Iterator[DocumentedFunction]:
    for node, _ in documented(tree, "module"):
        if isinstance(node, ast.Module):
            continue
        text = ast.get_docstring(node) or ""
        sections = _sections(text)
        if "Parameters" in sections:
            yield DocumentedFunction(
                node.name,
                " ".join(text.split("\n\n")[0].split()),
                tuple(_entries(sections["Parameters"])),
                tuple(_entries(sections.get("Returns", ""))),
            )


def _sections(text: str) -> dict[str, str]:
    parts = _SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _entries(section: str) -> Iterator[Entry]:
    head: re.Match[str] | None = None
    lines: list[str] = []
    for line in [*section.strip("\n").split("\n"), "end"]:
        if line.startswith((" ", "\t")) or not line.strip():
            lines.append(line)
            continue
        if head is not None:
            yield Entry(head[1], (head[2] or "").strip(), " ".join(" ".join(lines).split()))
        head, lines = _ENTRY.match(line), []
