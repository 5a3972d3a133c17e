"""Names: canonical JSON and bytes to sha256.

Two kinds that are never mixed: a :data:`ContentDigest` names bytes, a :data:`RecipeDigest` names
everything that a result is made from.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NewType

__all__ = [
    "ContentDigest",
    "RecipeDigest",
    "canonical_json",
    "code_digest",
    "content_digest",
    "recipe_digest",
]

ContentDigest = NewType("ContentDigest", str)
RecipeDigest = NewType("RecipeDigest", str)


def canonical_json(value: Any) -> bytes:
    """Encode ``value`` so that equal values give equal bytes: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: for anything but JSON types and dataclasses of them.
        ValueError: for NaN and infinities, which JSON cannot carry.
    """
    return json.dumps(
        value,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=_plain,
    ).encode()


def content_digest(data: bytes | memoryview) -> ContentDigest:
    """Name bytes by their sha256, as 64 hexadecimal digits."""
    return ContentDigest(hashlib.sha256(data).hexdigest())


def recipe_digest(value: Any) -> RecipeDigest:
    """Name a result by the canonical JSON of all its inputs, as 64 hexadecimal digits."""
    return RecipeDigest(hashlib.sha256(canonical_json(value)).hexdigest())


def code_digest() -> ContentDigest:
    """Name this package by its source files."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return content_digest(b"".join(source.read_bytes() for source in sources))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")
