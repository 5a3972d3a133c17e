from dataclasses import dataclass

import pytest

from afcore.digest import canonical_json, content_digest, recipe_digest


@dataclass
class Point:
    y: int
    x: int


def test_equal_values_give_equal_bytes() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'.encode()
    assert canonical_json(Point(2, 1)) == canonical_json({"x": 1, "y": 2})


def test_digests_are_sha256() -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert content_digest(b"") == empty
    assert recipe_digest({}) == content_digest(b"{}")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_json_cannot_carry_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="set has no canonical JSON form"):
        canonical_json({1, 2})
