"""Lists and objects that a column of a CSV holds as text, in JSON or as Python writes them."""

import ast
import json
from typing import Any, NoReturn

__all__ = ["written_value"]


def written_value(text: str) -> Any:
    """What a text says: JSON, or what pandas writes of lists and objects into a CSV.

    Raises:
        ValueError: where it is neither.
    """
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("no value that is written out") from error


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no value of JSON")
