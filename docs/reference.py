"""Write ``docs/configuration.md`` and ``docs/report.md`` from the models in :mod:`afcore`.

Run as ``python docs/reference.py``. A test compares the committed pages with what this gives.
"""

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from afcore.config import Config
from afcore.freezing.known_policies import DEFAULT_POLICY, Policy
from afcore.freezing.policy import FreezePolicy
from afcore.number_texts import NUMBER_TEXT
from afcore.results.report import CompareReport, RunReport
from afcore.tasks.known_tasks import TASKS
from afcore.tasks.task import Task

__all__ = ["pages"]

_FOLDER = Path(__file__).parent
_MADE_BY = "<!-- Written by docs/reference.py; change the models there and run it again. -->"

_CONFIGURATION = """
A training is described by one YAML file. Only `model.name` and `data.train` have no default.
Unknown keys and values that are not allowed are refused, with the nearest known name or what is
allowed. `--set key.path=value` changes a key on the command line; values are YAML too. What was
resolved is logged to MLflow. Secrets have no key: they come from the environment. Do not write them
into a URI, because URIs are logged.
"""

_TASKS = """
Columns are those that are read unless the key names another one.
""".strip()

_REPORT = """
`--report FILE` writes one JSON document: of `autofreeze run` a [run](#run), of `autofreeze compare`
a [comparison](#comparison). The same documents are artifacts in MLflow, `report.json` of a run and
`comparison.json` of a comparison. What `plan`, `simulate` and `search` write with `--report` is
their tables as JSON, and `retrain` writes what became of it, with the run under `report`; neither
is described here. Schema 1: fields may be added, none is renamed or removed.

Seconds are wall-clock seconds, dollars are US, accuracies go from 0 to 1, epochs and steps count
from 1. A boundary is a number of frozen blocks. `null` stands for what does not exist, and for an
infinite or undefined number.

```python
import json

report = json.load(open("report.json"))
print(report["totals"]["test"]["accuracy"], [epoch["read_from"] for epoch in report["epochs"]])
```
"""

_TITLES = {
    "RunReport": "Run",
    "DataReport": "Data",
    "EpochReport": "Epoch",
    "DecisionReport": "Decision",
    "IntervalStatistics": "Interval",
    "TotalsReport": "Totals",
    "ClassesReport": "Classes",
    "ClassReport": "Class",
    "CompareReport": "Comparison",
    "DifferenceReport": "Difference",
}

_SAID_HERE = {
    "RunReport.schema": "version of this document",
    "RunReport.run_id": "digest of all that decides the weights: the same command, the same id",
    "RunReport.mode": "execution mode: `mode` of the configuration",
    "RunReport.seed": "`training.seed`",
    "RunReport.status": "a run that is not finished has no report",
    "RunReport.model": "`model.name`",
    "RunReport.num_blocks": "transformer blocks of the model",
    "RunReport.data": "sizes of the splits",
    "RunReport.epochs": "in order",
    "RunReport.decisions": "in order; none where the policy never decides",
    "RunReport.intervals": "in order, those without a decision too",
    "RunReport.totals": "of the whole run",
    "RunReport.mlflow_run_id": "where it was logged; null where it was trained without MLflow",
    "DataReport.train_examples": "without those held out for validation",
    "DataReport.validation_examples": "scored after every epoch",
    "DataReport.test_examples": "scored once; 0 without a test set",
    "DecisionReport.step": "steps done when it was made",
    "DecisionReport.epoch": "that it belongs to",
    "DecisionReport.threshold": "percentile of eta; null for policies that have none",
    "DecisionReport.boundary_before": "blocks frozen before it",
    "DecisionReport.boundary_after": "blocks frozen after it",
    "EpochReport.epoch": "its number",
    "EpochReport.boundary_start": "blocks frozen at its start",
    "EpochReport.boundary_end": "blocks frozen at its end",
    "EpochReport.train_seconds": "the next three together",
    "EpochReport.prefix_seconds": "running frozen blocks",
    "EpochReport.suffix_seconds": "forward, backward and update of the rest, and decisions",
    "EpochReport.checkpoint_seconds": "writing the trained state",
    "EpochReport.materialize_seconds": "computing and writing activation sets",
    "EpochReport.evaluate_seconds": "scoring on validation",
    "EpochReport.train_loss": "mean over its steps",
    "EpochReport.validation": "the task's scores",
    "EpochReport.activation_bytes_written": "of sets built; 0 where one was found",
    "EpochReport.cost_usd": "its seconds, bytes stored and requests at the configured prices",
    "TotalsReport.train_seconds": "sum over the epochs",
    "TotalsReport.materialize_seconds": "sum over the epochs",
    "TotalsReport.evaluate_seconds": "sum over the epochs, and the test",
    "TotalsReport.checkpoint_seconds": "sum over the epochs",
    "TotalsReport.wall_seconds": "from the start to the published model, all attempts",
    "TotalsReport.worker_seconds": "workers times seconds",
    "TotalsReport.activation_bytes_written": "sum over the epochs",
    "TotalsReport.cost_usd": "epochs, and the time between them and lost",
    "TotalsReport.best_epoch": "by the main score on validation, then by loss",
    "ClassReport.name": "its label",
    "CompareReport.schema": "version of this document",
    "CompareReport.runs": "one for each seed and mode",
}
"""What names and types leave open, for fields whose model does not say it."""


def pages() -> dict[Path, str]:
    """Text of every generated page by its path.

    Raises:
        ValueError: when a field of the report is described nowhere, or twice.
    """
    return {
        _FOLDER / "configuration.md": _configuration_page(),
        _FOLDER / "report.md": _report_page(),
    }


def _configuration_page() -> str:
    schema = Config.model_json_schema()
    lines = ["# Configuration", "", _MADE_BY, _CONFIGURATION]
    sections: list[tuple[str, dict[str, Any]]] = [("", schema)]
    for name, field in schema["properties"].items():
        if (section := _section_of(field)) is not None:
            sections.append((name, _resolve(section, schema)))
        elif "discriminator" in field:
            sections.append((name, {}))
    for name, section in sections:
        if name == "freezing":
            lines += _freezing(schema)
            continue
        lines += [f"## `{name}`" if name else "## Top level", "", f"{section['description']}", ""]
        lines += _rows(name, section, schema)
    lines += _tasks()
    return "\n".join(lines).rstrip() + "\n"


def _tasks() -> list[str]:
    """What each task is, the columns that it reads, and its scores, the main one first."""
    lines = ["## Tasks", "", _TASKS, ""]
    for name, kind in TASKS.items():
        said = (kind.__doc__ or "").split("Attributes:")[0].strip()
        lines += [f"### `task: {name}`", "", _plain(said), ""]
        lines += ["| key | column |", "|---|---|"]
        lines += [f"| `data.{key}` | `{column}` |" for key, column in kind.columns.items()]
        if kind.settings:
            lines += ["", *_task_settings(kind)]
        lines += ["", "| `training.score` | meaning |", "|---|---|"]
        for number, score in enumerate(kind.scores):
            better = "higher" if score.higher_is_better else "lower"
            main = "; the default" if number == 0 else ""
            lines.append(f"| `{score.name}` | {score.title}, {better} is better{main} |")
        lines.append("")
    return lines


def _task_settings(kind: type[Task]) -> list[str]:
    """Keys of ``task_settings`` that a task has."""
    whole = kind.model_json_schema()
    own = {name: whole["properties"][name] for name in kind.settings}
    return _rows("task_settings", {"properties": own}, whole)[:-1]


def _freezing(schema: dict[str, Any]) -> list[str]:
    """The keys of all policies, then those of each."""
    shared = FreezePolicy.model_json_schema()
    names = [kind.model_fields["policy"].default for kind in get_args(Policy)]
    shared["required"].remove("policy")
    shared["properties"]["policy"] = {
        "enum": names,
        "default": DEFAULT_POLICY.model_fields["policy"].default,
        "description": "the policy; keys of its own are below, and those of others are refused",
    }
    lines = ["## `freezing`", "", _plain(shared["description"]), ""]
    lines += _rows("freezing", shared, schema)
    for name, kind in zip(names, get_args(Policy), strict=True):
        own = kind.model_json_schema()
        for key in shared["properties"]:
            del own["properties"][key]
        said = own["description"].split("\n\n")[0]
        lines += [f"### `freezing` with `policy: {name}`", "", _plain(said), ""]
        lines += _rows("freezing", own, schema) if own["properties"] else []
    return lines


def _rows(name: str, section: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in section["properties"].items():
        if _section_of(field) is not None or "discriminator" in field:
            continue
        path = f"{name}.{key}" if name else key
        default = _default(field) if key not in section.get("required", ()) else "required"
        lines.append(_row((f"`{path}`", _value(field, schema), default, field["description"])))
    return [*lines, ""]


def _report_page() -> str:
    lines = ["# report.json", "", _MADE_BY, _REPORT]
    left = dict(_SAID_HERE)
    for model in _models(RunReport, CompareReport):
        schema = model.model_json_schema()
        lines += [f"## {_TITLES[model.__name__]}", "", _plain(schema["description"]), ""]
        lines += ["| field | value | meaning |", "|---|---|---|"]
        for name, field in schema["properties"].items():
            said = [
                text
                for text in (field.get("description"), left.pop(f"{model.__name__}.{name}", None))
                if text
            ]
            if len(said) != 1:
                raise ValueError(
                    f"{model.__name__}.{name} is described {len(said)} times: describe it in "
                    "afcore/results/report.py or in docs/reference.py"
                )
            lines.append(_row((f"`{name}`", _value(field, schema, _unit(name)), said[0])))
        lines.append("")
    if left:
        raise ValueError(f"docs/reference.py describes fields that are not there: {sorted(left)}")
    return "\n".join(lines).rstrip() + "\n"


def _models(*roots: type[BaseModel]) -> list[type[BaseModel]]:
    """The models, each followed by those that its fields hold; each once."""
    found: dict[type[BaseModel], None] = {}
    for root in roots:
        found[root] = None
        for field in root.model_fields.values():
            for inner in (field.annotation, *get_args(field.annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    found |= dict.fromkeys(_models(inner))
    return list(found)


def _value(field: dict[str, Any], schema: dict[str, Any], unit: str = "") -> str:
    """A field's type, range and unit in words."""
    if "$ref" in _without_default(field):
        title = _TITLES[field["$ref"].rpartition("/")[2]]
        return f"[{title.lower()}](#{title.lower()})"
    if "anyOf" in field:
        options = [
            _value(option, schema, unit)
            for option in field["anyOf"]
            if option.get("pattern") != NUMBER_TEXT  # a number all the same
        ]
        return ("; or " if any("," in option for option in options[:-1]) else " or ").join(options)
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = field["type"]
    if kind == "array" and "prefixItems" in field:
        return f"({', '.join(_value(item, schema) for item in field['prefixItems'])})"
    if kind == "array":
        return f"list of {_value(field['items'], schema, unit)}"
    if kind == "object" and field["additionalProperties"] is True:
        return "name to value"
    if kind == "object":
        return f"name to {_value(field['additionalProperties'], schema, unit)}"
    words = {"string": "text", "boolean": "true or false", "null": "null"}.get(kind, kind)
    return ", ".join(part for part in (words, _range(field), unit * (kind != "null")) if part)


def _range(field: dict[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{word} {field[name]:.15g}" for name, word in words.items() if name in field]
    return " and ".join(limits)


def _unit(name: str) -> str:
    """Units are in names."""
    units = {"_seconds": "s", "_bytes": "bytes", "_usd": "US dollars", "speedup": "ratio"}
    return next((unit for ending, unit in units.items() if name.endswith(ending)), "") or (
        "bytes" if "_bytes_" in name else ""
    )


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None:
        return "none"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _section_of(field: dict[str, Any]) -> dict[str, Any] | None:
    """What a field refers to; a section that may be left out is one of two."""
    first: dict[str, Any] = field.get("anyOf", [field])[0]
    return first if "$ref" in _without_default(first) else None


def _without_default(field: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if key != "default"}


def _resolve(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = schema["$defs"][field["$ref"].rpartition("/")[2]]
    return definition


def _plain(docstring: str) -> str:
    """A docstring as Markdown, on one line."""
    return " ".join(docstring.replace("``", "`").split())


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
