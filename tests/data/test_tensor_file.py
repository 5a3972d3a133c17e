import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from afcore.data.sources import Rows
from afcore.data.split import held_out
from afcore.data.tensor_file import tensor_pieces, view_tensors
from afcore.digest import content_digest
from afcore.tasks.prepare import _rows_digest

ARRAYS: dict[str, Any] = {
    "a/values": np.arange(7, dtype=np.int32),
    "a/offsets": np.asarray([0, 3, 7]),
    "flags": np.asarray([[True, False], [False, True], [True, True]]),
    "share": np.asarray(0.5, dtype=np.float32),
    "none": np.empty((0, 3), dtype=np.uint8),
}


def test_it_is_what_safetensors_reads_and_writes() -> None:
    content = b"".join(tensor_pieces(ARRAYS))
    for found in (load(content), view_tensors(content), view_tensors(save(ARRAYS))):
        assert found.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("count", [1, 9_999, 10_000, 25_000])
def test_rows_are_named_as_their_json_is(count: int) -> None:
    texts = [f"text \u00e9 {i}" for i in range(count)]
    rows = Rows("x", {"text": texts, "text_pair": texts[::-1]}, {"label": list(range(count))})
    whole = json.dumps([rows.inputs, rows.targets], default=str).encode()
    assert _rows_digest(rows) == content_digest(whole)
    assert _rows_digest(Rows("x", {"text": texts})) == content_digest(
        json.dumps([{"text": texts}, {}]).encode()
    )


def test_one_key_at_least_is_on_either_side() -> None:
    keys = [f"k{i % 3}" for i in range(12)]
    for fraction in (1e-12, 1 - 1e-12):
        held = held_out(keys, fraction)
        few = {key for key, side in zip(keys, held, strict=True) if side == (fraction < 0.5)}
        assert len(few) == 1
        assert held.any()
        assert not held.all()
