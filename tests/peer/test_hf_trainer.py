"""The Trainer does what our loop does, but for its order of examples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afcore.compute import Compute
from afcore.config import TrainingConfig, parse_config
from afcore.data.prepare import PreparedData
from afcore.errors import AutoFreezeError
from afcore.model.blocks import SplitModel
from afcore.peer.hf_trainer import Fitted, fit
from afcore.runs.records import best_epoch
from afcore.runs.run import identify_run
from afcore.runs.work import training_schedule
from afcore.storage.objects import Storage
from afcore.training.evaluate import evaluate
from afcore.training.loop import train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.trained import TrainingState
from tests.training_setup import CPU_FP32, make_examples, make_split, make_state

DATA = PreparedData("digest", ["a", "b", "c"], make_examples(40), make_examples(12), None)


def fit_tiny(
    tokenizer: Any,
    data: PreparedData = DATA,
    sampling: str = "random",
    model: Any = None,
    compute: Compute = CPU_FP32,
    **training: Any,
) -> Fitted:
    settings = TrainingConfig(**{"epochs": 1, "batch_size": 8, "learning_rate": 1e-3} | training)
    model = model or make_split(dropout=0.0).model
    return fit(model, tokenizer, data, training=settings, compute=compute, sampling=sampling)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "linear", "warmup_ratio": 0.4, "weight_decay": 0.1, "max_grad_norm": 0.5},
        {"schedule": "steps", "max_grad_norm": 0.0},
        {"schedule": "constant", "learning_rate": 3e-3},
    ],
)
def test_in_our_order_it_ends_with_our_weights(
    settings: dict[str, Any], tiny_tokenizer: Any
) -> None:
    training = TrainingConfig(**{"epochs": 1, "batch_size": 8, "learning_rate": 1e-3} | settings)
    fitted = fit_tiny(tiny_tokenizer, sampling="sequential", **settings)
    state = make_state(make_split(dropout=0.0))
    optimizer = SuffixOptimizer(
        state.split, learning_rate=training.learning_rate, weight_decay=training.weight_decay
    )
    state = TrainingState(state.split, optimizer, state.freeze)
    trained = train_epoch(
        state,
        DATA.train,
        np.split(np.arange(40), 5),
        epoch=1,
        schedule=training_schedule(training, 40),
        seed=0,
        pad_token_id=0,
        compute=CPU_FP32,
        policy=None,
        intervals_per_epoch=1,
        max_grad_norm=training.max_grad_norm,
        hidden_dtype="fp32",
    )

    assert fitted.epochs[0].train_loss == pytest.approx(trained.mean_loss, abs=1e-4)
    torch.testing.assert_close(weights(fitted.model), weights(state.split.model), atol=1e-5, rtol=0)


def test_the_seed_decides_the_order_and_everything_else(tiny_tokenizer: Any) -> None:
    one, again, other = (fit_tiny(tiny_tokenizer, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(weights(one.model), weights(again.model))
    assert not torch.equal(weights(one.model), weights(other.model))
    assert one.epochs[0].num_steps == 5


def test_grouped_by_length_pads_less(tiny_tokenizer: Any) -> None:
    counts = {}
    for sampling in ("random", "group_by_length"):
        model, sizes = make_split().model, []
        model.bert.embeddings.word_embeddings.register_forward_pre_hook(
            lambda _module, given, sizes=sizes: sizes.append(given[0].numel())
        )
        fit_tiny(tiny_tokenizer, sampling=sampling, model=model)
        counts[sampling] = sum(sizes[:5])  # steps; validation follows

    assert int(DATA.train.lengths.sum()) <= counts["group_by_length"] < counts["random"]


def test_the_best_epoch_is_tested_and_handed_back(tiny_tokenizer: Any) -> None:
    test = make_examples(30)
    data = PreparedData("digest", DATA.label_names, DATA.train, DATA.validation, test)
    fitted = fit_tiny(
        tiny_tokenizer, data, epochs=4, learning_rate=2e-2, schedule="constant", seed=3
    )
    best = best_epoch(fitted.epochs)
    ours = {
        name: evaluate(
            SplitModel(fitted.model), split, num_classes=3, pad_token_id=0, compute=CPU_FP32
        )
        for name, split in (("validation", data.validation), ("test", test))
    }

    assert best.epoch < 4, "choose a seed whose best epoch is not the last"
    assert ours["validation"] == pytest.approx(best.validation, abs=1e-5)
    assert ours["test"] == pytest.approx(fitted.test, abs=1e-5)
    assert [epoch.epoch for epoch in fitted.epochs] == [1, 2, 3, 4]
    for epoch in fitted.epochs:
        assert epoch.train_seconds > 0
        assert epoch.evaluate_seconds > 0


def test_bf16_is_autocast_and_ends_with_the_trainer(tiny_tokenizer: Any) -> None:
    bf16 = Compute(torch.device("cpu"), "bf16")
    fitted = fit_tiny(tiny_tokenizer, sampling="sequential", compute=bf16)
    in_fp32 = fit_tiny(tiny_tokenizer, sampling="sequential")

    assert fitted.epochs[0].validation["loss"] != in_fp32.epochs[0].validation["loss"]
    assert fitted.epochs[0].validation["loss"] == pytest.approx(
        in_fp32.epochs[0].validation["loss"], abs=0.02
    )
    assert {p.dtype for p in fitted.model.parameters()} == {torch.float32}
    assert "forward" not in vars(fitted.model)


def test_divergence_gets_a_message(tiny_tokenizer: Any) -> None:
    with pytest.raises(AutoFreezeError, match=r"training diverged\. Lower training\.learning_rate"):
        fit_tiny(tiny_tokenizer, learning_rate=1e30, max_grad_norm=0.0)


def test_a_run_begins_with_the_weights_of_mode_full(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config, storage = parse_config(tiny_config, "test"), Storage(str(tmp_path / "store"))
    full, random, grouped, other_seed = (
        identify_run(config.replace(**changes), storage)
        for changes in (
            {"mode": "full"},
            {"mode": "hf_trainer"},
            {"mode": "hf_trainer_grouped"},
            {"mode": "hf_trainer", "training.seed": 1},
        )
    )

    assert random.weights == grouped.weights == full.weights
    assert random.data == full.data
    assert other_seed.weights["head"] != full.weights["head"]
    assert len({full.run_id, random.run_id, grouped.run_id, other_seed.run_id}) == 4


def test_our_order_and_our_cache_do_not_name_a_run_of_the_trainer(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    config, storage = parse_config(tiny_config, "test"), Storage(str(tmp_path / "store"))
    config = config.replace(mode="hf_trainer")
    changed = config.replace(**{"data.batching": "random", "cache.dtype": "fp32"})

    assert identify_run(config, storage).run_id == identify_run(changed, storage).run_id
