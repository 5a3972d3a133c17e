"""Who may know whom.

That the core can be imported without Prefect and MLflow is in tests/notebook/test_fit.py.
"""

import ast
from pathlib import Path

import afcore
from bench.shape import arrows, circles, double_names, large_functions

ROOT = Path(afcore.__file__).parent


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_mlflow_stays_in_tracking() -> None:
    users = {
        p.parent.name
        for p in ROOT.rglob("*.py")
        if any(i.partition(".")[0] == "mlflow" for i in imports(p))
    }
    assert users == {"tracking"}


def test_decisions_are_pure() -> None:
    rooms = ("freezing", "planning")
    pure = [path for room in rooms for path in (ROOT / room).glob("*.py")]
    pure += [
        ROOT / f"{name}.py"
        for name in (
            "cost",
            "number_texts",
            "activations/tiers",
            "results/paired",
            "tasks/scores",
        )
    ]
    assert len(pure) >= 14
    known = {path.relative_to(ROOT.parent).with_suffix("").as_posix() for path in pure}
    for path in pure:
        used = {name for name in imports(path) if name.replace(".", "/") not in known}
        forbidden = {i for i in used if i.split(".")[0] in ("torch", "fsspec", "afcore", "zarr")}
        assert not forbidden, f"{path.name} imports {forbidden}"


def test_pipelines_are_not_known_to_the_core() -> None:
    for path in ROOT.rglob("*.py"):
        assert not {i for i in imports(path) if i.startswith("pipelines")}, path


def test_model_and_training_import_neither_stores_nor_records() -> None:
    modules = [path for room in ("model", "training") for path in (ROOT / room).glob("*.py")]
    assert len(modules) >= 12
    for path in modules:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("afcore.")}
        assert not used & {"storage", "runs", "results", "launch"}, path


def test_launching_knows_nothing_of_what_is_launched() -> None:
    modules = list((ROOT / "launch").glob("*.py"))
    assert len(modules) >= 8
    known = {"launch", "config", "errors", "extras", "interrupt"}
    for path in modules:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("afcore.")}
        assert used <= known, path


def test_arrows_between_rooms_point_one_way() -> None:
    root = ROOT.parent
    assert len(arrows(root)["afcore/runs"]) >= 8
    assert circles(root) == []


def test_functions_take_eight_parameters_at_most_and_modules_have_names_of_their_own() -> None:
    assert large_functions(ROOT.parent) == []
    assert double_names(ROOT.parent) == []
