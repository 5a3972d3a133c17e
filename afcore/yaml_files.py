"""Files that users write: YAML, checked against a model. What is wrong is said in one message."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from afcore.errors import ConfigError

__all__ = ["SECRET_MESSAGE", "USERINFO", "parse", "read_mapping"]

SECRET_MESSAGE = (
    "a password in a URI would be logged; give credentials through the environment, e.g. "
    "AWS_SECRET_ACCESS_KEY or MLFLOW_TRACKING_PASSWORD"
)
USERINFO = re.compile(r"://[^/@]*:[^/@]*@")
_UNION_MEMBER = re.compile(r"str|int|float|bool|constrained-\w+|.*\[.*\]")
_Kind = TypeVar("_Kind", bound=BaseModel)


def read_mapping(path: Path, what: str, instead: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        path: of the file.
        what: it is, in messages.
        instead: what to give, should it not be there.

    Raises:
        ConfigError: when it cannot be read, is not YAML, or holds something else.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {what} {str(path)!r}: {error.strerror}. {instead}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {type(tree).__name__}")
    return tree


def parse(kind: type[_Kind], tree: dict[str, Any], source: object) -> _Kind:
    """Validate a tree of plain values that comes from ``source``.

    Raises:
        ConfigError: naming each offending key, what was got and what is allowed.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        problems = [_explain(problem, kind) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(dict.fromkeys(problems))) from error


def _explain(problem: Any, kind: type[BaseModel]) -> str:
    # pydantic names the member of a union in `loc`; only names of keys help the reader.
    location = [str(part) for part in problem["loc"]]
    path = ".".join(part for part in location if not _UNION_MEMBER.fullmatch(part))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}; {_nearest(location, kind)}"
    if problem["type"] == "missing":
        return f"missing key {path!r}; it has no default"
    message = problem["msg"].removeprefix("Value error, ")
    if message == SECRET_MESSAGE or isinstance(problem["input"], dict):
        return f"{path}: {message}" if path else message
    got = repr(problem["input"])
    if USERINFO.search(got):
        got = "a URI with a password"
    return f"{path}: got {got}; {message[:1].lower()}{message[1:]}"


def _nearest(location: Sequence[str], kind: type[BaseModel]) -> str:
    known = {".".join(path): path for path in _keys(kind)}
    wanted, above = ".".join(location), location[:-1]
    siblings = [".".join((*above, name)) for name in _fields_at(kind, above)]
    for candidates in (siblings, list(known)):
        if found := difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.6):
            return f"did you mean {found[0]!r}?"
    same_leaf = [key for key, path in known.items() if path[-1] == location[-1]]
    if same_leaf:
        return f"did you mean {same_leaf[0]!r}?"
    return f"known here: {', '.join(siblings or sorted(kind.model_fields))}"


def _fields_at(annotation: Any, path: Sequence[str]) -> list[str]:
    """Names of the fields of the section that a path leads to."""
    candidates = (annotation, *get_args(annotation))
    section = next(
        (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
    )
    if section is None:
        return []
    if get_origin(annotation) is dict:  # of sections, by names of the user's
        return _fields_at(section, path[1:])
    if not path:
        return list(section.model_fields)
    field = section.model_fields.get(path[0])
    return _fields_at(field.annotation, path[1:]) if field else []


def _keys(section: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append((*prefix, name))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _keys(field.annotation, (*prefix, name))
    return keys
