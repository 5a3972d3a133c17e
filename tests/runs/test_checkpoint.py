from typing import Any

import pytest
import torch

from afcore.digest import ContentDigest
from afcore.errors import IntegrityError
from afcore.runs.checkpoint import (
    collect_parts,
    encode_checkpoint,
    load_moments,
    load_weights,
    save_checkpoint,
    weight_digests,
)
from afcore.storage.objects import Storage
from tests.training_setup import make_examples, make_split, make_state, run_epochs, scripted

FOLDER = "runs/x/parts"


def save(
    storage: Storage, state: Any, unchanged: dict[str, ContentDigest] | None = None
) -> dict[str, ContentDigest]:
    known = unchanged or {}
    encoded = encode_checkpoint(state.split, state.optimizer, known)
    return known | save_checkpoint(storage, FOLDER, encoded)


def test_weights_and_moments_come_back(storage: Storage) -> None:
    state, examples = make_state(make_split()), make_examples()
    run_epochs(state, examples, 1)
    parts = save(storage, state)
    other = make_state(make_split())
    with torch.no_grad():
        for parameter in other.split.model.parameters():
            parameter.zero_()
    load_weights(storage, FOLDER, other.split, parts)
    for one, two in zip(
        state.split.model.parameters(), other.split.model.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    moments = state.optimizer.moments()
    assert moments
    found = load_moments(storage, FOLDER, parts)
    assert found.keys() == moments.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, moments[name])
    assert {k: v for k, v in parts.items() if "optimizer" not in k} == weight_digests(other.split)


def test_frozen_parts_are_stored_once(local_storage: Storage) -> None:
    state, examples = make_state(make_split()), make_examples()
    run_epochs(state, examples, 1, scripted([0, 2]))
    first = save(local_storage, state)
    frozen = state.split.frozen_parts(2)
    assert not any(f"optimizer.{part}" in first for part in frozen)
    stored = set(local_storage.list(FOLDER))
    run_epochs(state, examples, 1)
    second = save(local_storage, state, {p: first[p] for p in frozen})
    assert {part: second[part] for part in frozen} == {part: first[part] for part in frozen}
    new = set(local_storage.list(FOLDER)) - stored
    assert len(new) == 2 * 3  # weights and moments of two blocks and the head
    assert save(local_storage, state) == second
    assert set(local_storage.list(FOLDER)) == stored | new


def test_only_what_no_kept_checkpoint_names_is_collected(local_storage: Storage) -> None:
    state, examples = make_state(make_split()), make_examples()
    checkpoints = []
    for _ in range(3):
        run_epochs(state, examples, 1)
        checkpoints.append(save(local_storage, state))
    local_storage.put(f"{FOLDER}/left-by-a-killed-writer.safetensors", b"xyz")
    freed = collect_parts(local_storage, FOLDER, [checkpoints[0], checkpoints[2]])
    assert freed > 3
    for kept in (checkpoints[0], checkpoints[2]):
        load_weights(local_storage, FOLDER, state.split, kept)
    with pytest.raises(IntegrityError, match="is missing"):
        load_weights(local_storage, FOLDER, state.split, checkpoints[1])
    assert len(local_storage.list(FOLDER)) == 2 * len(checkpoints[0])


def test_a_damaged_part_is_not_loaded(local_storage: Storage) -> None:
    state = make_state(make_split())
    parts = save(local_storage, state)
    key = f"{FOLDER}/{parts['head']}.safetensors"
    data = bytearray(local_storage.get(key))
    data[-1] ^= 1
    local_storage.put(key, bytes(data))
    with pytest.raises(IntegrityError, match="head is damaged"):
        load_weights(local_storage, FOLDER, state.split, parts)
