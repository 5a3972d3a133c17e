"""Numbers that are given as texts: ``5e-4`` is a number to JSON, and a text to PyYAML.

One rule holds for configuration files, ``--set``, ``overrides`` and a ``config`` in JSON: where a
number is wanted, its text is as good.
"""

import re
from typing import Any

__all__ = ["NUMBER_TEXT", "number_of", "numbers_as_texts"]

NUMBER_TEXT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_SCIENTIFIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def number_of(value: object) -> object:
    """The number that a text in scientific notation is; anything else as it is.

    For values whose type is not known; where it is, pydantic reads them.
    """
    if isinstance(value, str) and _SCIENTIFIC.fullmatch(value.strip()):
        return float(value)
    return value


def numbers_as_texts(schema: dict[str, Any]) -> None:
    """Let the JSON schema of a section allow what pydantic reads: Prefect's server checks by it.

    Its form shows a tab for each kind, as it does for a list of types; and it knows no other schema
    that allows both.
    """
    for name, field in schema.get("properties", {}).items():
        schema["properties"][name] = _or_text(field)


def _or_text(field: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in field:
        options = [_or_text(option) for option in field["anyOf"]]
        return {**field, "anyOf": [one for o in options for one in o.get("anyOf", [o])]}
    for inner in ("items", "additionalProperties"):
        if isinstance(field.get(inner), dict):
            field = {**field, inner: _or_text(field[inner])}
    if "prefixItems" in field:
        field = {**field, "prefixItems": [_or_text(item) for item in field["prefixItems"]]}
    if field.get("type") != "number":
        return field
    about = field.keys() & {"title", "description", "default"}
    number = {key: value for key, value in field.items() if key not in about}
    options = [number, {"type": "string", "pattern": NUMBER_TEXT}]
    return {"anyOf": options} | {key: field[key] for key in about}
