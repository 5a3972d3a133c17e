"""The shape of the code: rooms, their lines, who imports whom, and what is too large.

    python bench/shape.py [FOLDER ...]

A room is a folder of ``afcore``, a module beside them, or ``pipelines``. Lines of code are those
with something other than comments and docstrings. Prints a table a folder (checkouts to be
compared), the arrows that go round in circles, functions of more than eight parameters, and modules
of one name.
"""

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

PACKAGES = ("afcore", "pipelines")
MOST_PARAMETERS = 8
_BLANK = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def modules(root: Path) -> dict[str, Path]:
    """Files by the names of their modules."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in files]
    return {n.removesuffix(".__init__"): p for n, p in zip(names, files, strict=True)}


def room(root: Path, module: str) -> str:
    """That a module belongs to."""
    parts = module.split(".")
    if parts[0] != "afcore" or len(parts) == 1:
        return parts[0]
    return f"afcore/{parts[1]}"


def code_lines(path: Path) -> int:
    """Lines with code."""
    source = path.read_text()
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            documentation |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _BLANK:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


def arrows(root: Path) -> dict[str, set[str]]:
    """The rooms that each room imports from, also within a function."""
    known = modules(root)
    found: dict[str, set[str]] = {room(root, module): set() for module in known}
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            here = room(root, module)
            found[here] |= {room(root, name) for name in names if name in known} - {here}
    return found


def circles(root: Path) -> list[list[str]]:
    """Rooms that can be reached from each other."""
    after = arrows(root)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            new = after[left.pop()] - seen
            seen |= new
            left += new
        return seen

    reach = {name: reachable(name) for name in after}
    found = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in after
        if name in reach[name]
    }
    return sorted(map(list, found))


def large_functions(root: Path) -> list[tuple[int, str]]:
    """(parameters, where) of functions that take more than eight, ``self`` not counted."""
    found = []
    for module, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            given = [*node.args.posonlyargs, *node.args.args]
            if given and given[0].arg in ("self", "cls"):
                given = given[1:]
            count = len(given) + len(node.args.kwonlyargs)
            # A command's parameters are its options.
            decorated = any("command" in ast.unparse(one) for one in node.decorator_list)
            is_command = decorated or node.name.endswith("_command")
            if count > MOST_PARAMETERS and not is_command:
                found.append((count, f"{module}.{node.name}"))
    return sorted(found, reverse=True)


def double_names(root: Path) -> list[str]:
    """Names that two modules have."""
    counts = Counter(path.stem for path in modules(root).values() if path.stem != "__init__")
    return sorted(name for name, count in counts.items() if count > 1)


def main() -> None:
    """Print it all."""
    for folder in sys.argv[1:] or ["."]:
        root = Path(folder)
        rooms = arrows(root)
        code: Counter[str] = Counter()
        everything: Counter[str] = Counter()
        for module, path in modules(root).items():
            code[room(root, module)] += code_lines(path)
            everything[room(root, module)] += len(path.read_text().splitlines())
        print(f"{folder}\n{'room':28} {'code':>6} {'all':>6}  imports from")
        for name in sorted(rooms):
            beneath = len([one for one in rooms[name] if (root / one).is_dir()])
            print(f"{name:28} {code[name]:6} {everything[name]:6}  {beneath} folders")
        num_arrows = sum(map(len, rooms.values()))
        print(f"{'all':28} {code.total():6} {everything.total():6}  {num_arrows} arrows")
        print("circles:", circles(root) or "none")
        print("more than eight parameters:", large_functions(root) or "none")
        print("modules of one name:", double_names(root) or "none", "\n")


if __name__ == "__main__":
    main()
