"""The invariants that the design promises, one test each."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import afcore
from afcore.activations.feed import HiddenFeed
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.data.order import epoch_batches
from afcore.storage.objects import Storage
from tests.training_setup import (
    CPU_FP32,
    TASK,
    SplitState,
    make_examples,
    make_split,
    make_state,
    make_trainee,
    new_set,
    run_epochs,
    scripted,
)

SOURCES = sorted(Path(afcore.__file__).parent.rglob("*.py"))

# Invariant 1, suffix(prefix(x)) equals the whole model: tests/model/test_split_model.py, for each
# architecture; invariant 4, killed and started again: tests/e2e/test_kill.py.


# In int8 the set that is read matters to what is computed from it, so its boundary stays.
@pytest.mark.parametrize(
    ("dtype", "script"),
    [("fp32", [1, 2, 2, 2, 3, 3]), ("bf16", [1, 2, 2, 2, 3, 3]), ("int8", [1, 2, 2, 2, 2, 2])],
)
def test_invariant_2_cached_and_recomputed_runs_see_the_same(
    local_storage: Storage, dtype: Any, script: list[int]
) -> None:
    examples = make_examples()
    recomputing = make_state(make_split())
    plain = run_epochs(recomputing, examples, 3, scripted(script), dtype=dtype)

    reading = make_state(make_split())

    def feed(epoch: int, state: SplitState) -> Any:
        boundary = state.freeze.boundary
        if not boundary:
            return None
        runner = PrefixRunner(make_trainee(state.split, examples, dtype=dtype))
        new = new_set(f"activations/{epoch}", [boundary])
        made = materialize(local_storage, new, runner)
        return HiddenFeed(made, runner)

    cached = run_epochs(reading, examples, 3, scripted(script), feed=feed, dtype=dtype)
    assert cached[1].activation_bytes_read > 0
    losses = [[step.loss for epoch in run for step in epoch.steps] for run in (plain, cached)]
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5, rtol=0)
    boundaries = [[s.boundary for e in run for s in e.steps] for run in (plain, cached)]
    assert boundaries[0] == boundaries[1]


def test_invariant_3_frozen_parameters_stay_and_moments_survive() -> None:
    state, examples = make_state(make_split()), make_examples()
    run_epochs(state, examples, 1)
    weights = {name: p.detach().clone() for name, p in state.split.model.named_parameters()}
    moments = {name: tensor.clone() for name, tensor in state.optimizer.moments().items()}
    state.freeze = type(state.freeze)(2)
    state.split.set_training(2)
    state.optimizer.drop_frozen()
    frozen = set(state.split.frozen_parts(2))
    kept = state.optimizer.moments()
    assert kept
    for name, tensor in moments.items():
        is_frozen = state.split.part_of[name.rpartition("/")[0]] in frozen
        assert (name not in kept) is is_frozen
        if not is_frozen:
            assert torch.equal(kept[name], tensor)
    run_epochs(state, examples, 2)
    changed = {
        state.split.part_of[name]
        for name, parameter in state.split.model.named_parameters()
        if not torch.equal(parameter, weights[name])
    }
    assert changed == set(state.split.parts) - frozen


@pytest.mark.parametrize(("dropout", "pool"), [(0.1, False), (0.0, True)])
def test_invariant_5_mode_full_is_plain_fine_tuning(dropout: float, pool: bool) -> None:
    examples = make_examples()
    state = make_state(make_split(dropout, pool))
    ours = [step.loss for epoch in run_epochs(state, examples, 2) for step in epoch.steps]

    model = make_split(dropout).model
    model.train()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)
    bare = []
    for epoch in (1, 2):
        for number, ids in enumerate(
            epoch_batches(examples.lengths, batch_size=8, seed=0, epoch=epoch, batching="grouped"),
            start=1,
        ):
            CPU_FP32.seed(0, epoch, number, 0)
            batch, targets = TASK.collate(examples, ids, torch.device("cpu"))
            loss = torch.nn.functional.cross_entropy(model(**batch).logits, targets["labels"])
            bare.append(float(loss.detach()))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    np.testing.assert_allclose(ours, bare, atol=1e-6, rtol=0)


def test_invariant_6_batches_and_rates_are_the_same_in_every_mode() -> None:
    examples = make_examples()
    rates = []
    for script in ([0, 0, 0, 0], [1, 2, 3, 3]):
        done = run_epochs(make_state(make_split()), examples, 2, scripted(script))
        rates.append([step.learning_rate for epoch in done for step in epoch.steps])
    assert rates[0] == rates[1]
    assert len(rates[0]) == 2 * 5


def test_invariant_7_no_pickle_and_no_remote_code() -> None:
    banned = {"pickle", "joblib", "dill", "cloudpickle", "shelve"}
    checked, loaded = 0, set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = {
                ast.Import: lambda n: {alias.name.split(".")[0] for alias in n.names},
                ast.ImportFrom: lambda n: {(n.module or "").split(".")[0]},
            }.get(type(node), lambda n: set())(node)
            assert not names & banned, f"{path}: {names}"
            checked += bool(names)
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "torch.save"), path
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                reads_settings_alone = called == "GenerationConfig.from_pretrained"
                if called.endswith(".from_pretrained") and not reads_settings_alone:
                    assert given["trust_remote_code"] == "False", path
                    loaded.add(called)
                if called == "getattr(transformers, auto_class).from_pretrained":
                    assert given["use_safetensors"] == "True", path
    assert checked > 50
    assert loaded >= {
        "AutoTokenizer.from_pretrained",
        "getattr(transformers, auto_class).from_pretrained",
    }


def test_invariant_8_secrets_stay_in_the_environment(
    tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from afcore.config import parse_config
    from afcore.runs.identify import identify_run

    secret = "s3cr3t-value-of-a-key"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    config = parse_config(tiny_config, source="test")
    storage = Storage(config.store)
    with caplog.at_level("DEBUG"):
        record = identify_run(config, storage)
    stored = b"".join(storage.get(key) for key in storage.list(""))
    assert secret not in record.model_dump_json() + caplog.text
    assert secret.encode() not in stored
    keys = re.findall(r'"(\w+)":', config.model_dump_json())
    assert not [key for key in keys if re.search("secret|password|token|credential", key)]
