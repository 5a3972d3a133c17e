"""Files that users write: YAML, checked against a model. What is wrong is said in one message."""

import difflib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from afcore.errors import ConfigError

__all__ = ["SECRET_MESSAGE", "USERINFO", "key_paths", "parse", "read_mapping", "read_value"]

SECRET_MESSAGE = (
    "a password in a URI would be logged; give credentials through the environment, e.g. "
    "AWS_SECRET_ACCESS_KEY or MLFLOW_TRACKING_PASSWORD"
)
USERINFO = re.compile(r"://[^/@]*:[^/@]*@")
_MOST_CHARACTERS = 300
_UNION_MEMBER = re.compile(r"str|int|float|bool|constrained-\w+|.*\[.*\]")
_MERGE = "tag:yaml.org,2002:merge"
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
        tree = yaml.load(path.read_text(encoding="utf-8"), _EachOnce)
    except OSError as error:
        raise ConfigError(
            f"cannot read {what} {str(path)!r}: {error.strerror}. {instead}"
        ) from error
    except _KeyTwiceError as error:
        raise ConfigError(f"{path}: {error}. Put both into one") from error
    except (yaml.YAMLError, ValueError) as error:  # of a date, say, that there is not
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {type(tree).__name__}")
    return tree


def read_value(text: str, what: str) -> Any:
    """A value that a user wrote behind a key on the command line.

    Args:
        text: YAML.
        what: it is, to begin the message.

    Raises:
        ConfigError: for another text, or a date that there is not.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{what} is not YAML") from error


class _KeyTwiceError(Exception):
    """A key that stands twice in a mapping."""


class _EachOnce(yaml.SafeLoader):
    """Plain YAML, of which PyYAML would drop all but the last of equal keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before others are merged into it.

        Raises:
            _KeyTwiceError: for a key that is there twice.
        """
        node = super().compose_mapping_node(anchor)
        lines = dict[tuple[str, Any], int]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise _KeyTwiceError(
                    f"the key {key.value!r} stands in line {lines[name]}, and in line {line} again"
                )
            lines[name] = line
        return node


def parse(kind: type[_Kind], tree: dict[str, Any], source: object) -> _Kind:
    """Validate a tree of plain values that comes from ``source``.

    Raises:
        ConfigError: naming each offending key, what was got and what is allowed.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        # A key that may be of several kinds has a problem with each of them.
        problems: dict[str, list[str]] = {}
        for problem in error.errors():
            got, _, wanted = _explain(problem, kind).partition("; ")
            problems.setdefault(got, []).append(wanted)
        said = [_joined(got, wanted) for got, wanted in problems.items()]
        raise ConfigError(f"{source}: {'; '.join(said)}") from error


@dataclass(frozen=True)
class _Place:
    """Where in a tree of sections a problem is.

    ``section`` is the one that the last of the ``keys`` is, or would be, in (None: no section); of
    several ``kinds`` by the value of its key ``chooser``.
    """

    keys: list[str]
    section: type[BaseModel] | None
    chooser: str = ""
    kinds: dict[str, type[BaseModel]] = field(default_factory=dict)

    def beside(self, name: str) -> str:
        """Path of a key that stands beside the last one."""
        return ".".join((*self.keys[:-1], name))


def _explain(problem: Any, kind: type[BaseModel]) -> str:
    place = _find([str(part) for part in problem["loc"]], kind)
    path = ".".join(place.keys)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}; {_nearest(place, kind)}"
    if problem["type"] == "missing":
        return f"missing key {path!r}; it has no default"
    if problem["type"] == "union_tag_invalid":
        chooser = problem["ctx"]["discriminator"].strip("'")
        allowed = problem["ctx"]["expected_tags"]
        return (
            f"{path}.{chooser}: got {_shown(problem['input'][chooser])}; input should be {allowed}"
        )
    message = problem["msg"].removeprefix("Value error, ").replace("tuple", "list")
    if message == SECRET_MESSAGE or isinstance(problem["input"], dict):
        return f"{path}: {message}" if path else message
    return f"{path}: got {_shown(problem['input'])}; {message[:1].lower()}{message[1:]}"


def _joined(got: str, wanted: list[str]) -> str:
    wanted = [one for one in dict.fromkeys(wanted) if one]
    return f"{got}; {', or '.join(wanted)}" if wanted else got


def _shown(value: object) -> str:
    got = " ".join(repr(value).split())
    if USERINFO.search(got):
        return "a URI with a password"
    return got if len(got) <= _MOST_CHARACTERS else f"{got[:_MOST_CHARACTERS]} ..."


def _find(location: list[str], kind: type[BaseModel]) -> _Place:
    """Follow keys alone: pydantic puts the member of a union between them."""
    keys, parts, place = list[str](), list(location), _Place([], kind)
    while parts:
        keys.append(parts.pop(0))
        found = place.section.model_fields.get(keys[-1]) if place.section else None
        if not parts or found is None:
            break
        if isinstance(found.discriminator, str):
            kinds = _kinds(found.annotation, found.discriminator)
            place = _Place(keys, kinds[parts.pop(0)], found.discriminator, kinds)
            continue
        if get_origin(found.annotation) is dict:  # of sections, by names of the user's
            keys.append(parts.pop(0))
        place = _Place(keys, next(iter(_sections(found.annotation)), None))
        if place.section is None:
            break
    keys += [part for part in parts if not _UNION_MEMBER.fullmatch(part)]
    return replace(place, keys=keys)


def _nearest(place: _Place, kind: type[BaseModel]) -> str:
    """What may have been meant by an unknown key."""
    if place.kinds and (said := _nearest_of_kinds(place)):
        return said
    leaf, wanted = place.keys[-1], ".".join(place.keys)
    known = {".".join(path): path for path in key_paths(kind)}
    siblings = [place.beside(name) for name in place.section.model_fields] if place.section else []
    for candidates in [] if place.kinds else [siblings, list(known)]:
        if found := difflib.get_close_matches(wanted, candidates, n=1, cutoff=0.6):
            return f"did you mean {found[0]!r}?"
    same_leaf = [key for key, path in known.items() if path[-1] == leaf]
    if same_leaf:
        return f"did you mean {same_leaf[0]!r}?"
    return f"known here: {', '.join(siblings or sorted(kind.model_fields))}"


def _nearest_of_kinds(place: _Place) -> str | None:
    """The same in a section of several kinds, of which another may have the key."""
    assert place.section is not None
    chosen = place.section.model_fields[place.chooser].default
    owners: dict[str, list[str]] = {}
    for tag, kind in place.kinds.items():
        for name in kind.model_fields:
            owners.setdefault(name, []).append(tag)
    leaf = place.keys[-1]
    matches = difflib.get_close_matches(leaf, owners, n=1, cutoff=0.6)
    if not matches:
        return None
    meant, having = place.beside(matches[0]), owners[matches[0]]
    if chosen in having:
        return f"did you mean {meant!r}?"
    return ("it" if matches[0] == leaf else f"did you mean {meant!r}? It") + (
        f" is for {place.beside(place.chooser)} {' and '.join(map(repr, having))}; {chosen!r} has "
        f"{', '.join(place.section.model_fields)}"
    )


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The models among what a value may be."""
    found = [annotation]
    for one in found:
        found += get_args(one)
    return [one for one in found if isinstance(one, type) and issubclass(one, BaseModel)]


def _kinds(annotation: Any, chooser: str) -> dict[str, type[BaseModel]]:
    """Sections of which one is chosen, by the value of its key ``chooser``."""
    return {one.model_fields[chooser].default: one for one in _sections(annotation)}


def key_paths(section: type[BaseModel], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All keys of a tree, sections among them; one that several kinds have is there for each."""
    keys = []
    for name, found in section.model_fields.items():
        keys.append((*prefix, name))
        if get_origin(found.annotation) is not dict:
            for inner in _sections(found.annotation):
                keys += key_paths(inner, (*prefix, name))
    return keys
