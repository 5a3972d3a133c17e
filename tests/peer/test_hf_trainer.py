"""The Trainer does what our loop does, but for its order of examples."""

import logging
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afcore.compute import Compute
from afcore.config import PEER_MODES, TrainingConfig, parse_config
from afcore.errors import AutoFreezeError, ConfigError
from afcore.model.adapters import LoraSettings
from afcore.model.pretrained import load_model
from afcore.model.split_model import SplitModel
from afcore.peer.hf_trainer import Fitted, Recipe, fit
from afcore.peer.trainer_run import RECIPES
from afcore.runs.batches import training_schedule
from afcore.runs.identify import identify_run
from afcore.runs.records import best_epoch
from afcore.storage.objects import Storage
from afcore.tasks.known_tasks import find_score
from afcore.tasks.stored_tokens import PreparedData
from afcore.training.evaluate import evaluate
from afcore.training.loop import Course, train_epoch
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.steps import StepSettings
from afcore.training.trained import TrainingState
from tests.model.test_pretrained import configure
from tests.training_setup import CPU_FP32, TASK, make_examples, make_split, make_state, make_trainee

DATA = PreparedData("digest", TASK, make_examples(40), make_examples(12), None)


def fit_tiny(
    tokenizer: Any,
    data: PreparedData = DATA,
    sampling: str = "random",
    early_stopping_patience: int | None = None,
    lora: LoraSettings | None = None,
    model: Any = None,
    compute: Compute = CPU_FP32,
    **training: Any,
) -> Fitted:
    settings = TrainingConfig(**{"epochs": 1, "batch_size": 8, "learning_rate": 1e-3} | training)
    model = model or make_split(dropout=0.0).model
    recipe = Recipe(sampling, early_stopping_patience, lora)
    score = find_score("text-classification", settings.score or "accuracy")
    return fit(
        model, tokenizer, data, training=settings, score=score, compute=compute, recipe=recipe
    )


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "linear", "warmup_ratio": 0.4, "weight_decay": 0.1, "max_grad_norm": 0.5},
        {"schedule": "steps", "max_grad_norm": 0.0},
        {"schedule": "constant", "learning_rate": 3e-3},
        {"schedule": "constant", "gradient_checkpointing": True},
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
    trained = train_epoch(
        make_trainee(state.split, DATA.train),
        TrainingState(optimizer, state.freeze),
        np.split(np.arange(40), 5),
        Course(1, training_schedule(training, 40)),
        StepSettings(max_grad_norm=training.max_grad_norm),
    )

    assert fitted.epochs[0].train_loss == pytest.approx(trained.mean_loss, abs=1e-4)
    torch.testing.assert_close(weights(fitted.model), weights(state.split.model), atol=1e-5, rtol=0)


def test_the_seed_decides_the_order_and_everything_else(tiny_tokenizer: Any) -> None:
    one, again, other = (fit_tiny(tiny_tokenizer, seed=seed) for seed in (0, 0, 1))

    assert torch.equal(weights(one.model), weights(again.model))
    assert not torch.equal(weights(one.model), weights(other.model))
    assert one.epochs[0].num_steps == 5


def test_a_part_of_an_epoch_is_told_by_its_own_steps(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afcore.peer.hf_trainer._PROGRESS_SECONDS", math.inf)
    caplog.set_level(logging.INFO, "afcore.peer")
    fitted = fit_tiny(tiny_tokenizer, epochs=1.5)

    assert [epoch.num_steps for epoch in fitted.epochs] == [5, 3]
    told = [line for line in caplog.messages if " step " in line]
    assert told == ["epoch 1/2  step 5/5  0 s left", "epoch 2/2  step 3/3  0 s left"]


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
    data = PreparedData("digest", TASK, DATA.train, DATA.validation, test)
    fitted = fit_tiny(
        tiny_tokenizer, data, epochs=4, learning_rate=2e-2, schedule="constant", seed=3
    )
    best = best_epoch(fitted.epochs, TASK.scores[0])
    ours = {
        name: evaluate(make_trainee(SplitModel(fitted.model), split)).scores()
        for name, split in (("validation", data.validation), ("test", test))
    }

    assert best.epoch < 4, "choose a seed whose best epoch is not the last"
    assert ours["validation"] == pytest.approx(best.validation, abs=1e-5)
    assert fitted.test is not None
    assert ours["test"] == pytest.approx(fitted.test.scores(), abs=1e-5)
    assert [epoch.epoch for epoch in fitted.epochs] == [1, 2, 3, 4]
    for epoch in fitted.epochs:
        assert epoch.train_seconds > 0
        assert epoch.evaluate_seconds > 0


def test_it_stops_after_an_epoch_without_a_lower_validation_loss(tiny_tokenizer: Any) -> None:
    settings = {"epochs": 6, "learning_rate": 2e-2, "schedule": "constant", "seed": 3}
    whole = fit_tiny(tiny_tokenizer, **settings)
    fitted = fit_tiny(tiny_tokenizer, early_stopping_patience=1, **settings)
    losses = [epoch.validation["loss"] for epoch in whole.epochs]
    first = next(n for n in range(1, 6) if losses[n] >= min(losses[:n]))

    assert len(whole.epochs) == 6
    assert first < 5, "choose a seed whose loss does not fall to the end"
    # The same training up to there, so its schedule is that of all six.
    assert [epoch.validation["loss"] for epoch in fitted.epochs] == losses[: first + 1]
    assert all(epoch.finished for epoch in fitted.epochs)


def test_by_macro_f1_it_stops_after_an_epoch_without_a_better_one(tiny_tokenizer: Any) -> None:
    settings = {"epochs": 5, "learning_rate": 5e-3, "schedule": "constant", "seed": 8}
    settings |= {"score": "f1_macro"}
    whole = fit_tiny(tiny_tokenizer, **settings)
    fitted = fit_tiny(tiny_tokenizer, early_stopping_patience=1, **settings)
    scores, losses = (
        [epoch.validation[name] for epoch in whole.epochs] for name in ("f1_macro", "loss")
    )
    first = next(n for n in range(1, 5) if scores[n] <= max(scores[:n]))
    by_loss = next(n for n in range(1, 5) if losses[n] >= min(losses[:n]))

    assert first != by_loss, "choose a seed where the loss would stop it elsewhere"
    assert [epoch.validation["f1_macro"] for epoch in fitted.epochs] == scores[: first + 1]


def test_lora_trains_additions_and_the_head_and_ends_as_a_plain_model(tiny_tokenizer: Any) -> None:
    before, test = make_split(dropout=0.0).model, make_examples(30)
    data = PreparedData("digest", TASK, DATA.train, DATA.validation, test)
    fitted = fit_tiny(tiny_tokenizer, data, lora=LoraSettings(rank=2, alpha=4), epochs=2)
    after = fitted.model.state_dict()
    changed = {
        name for name, old in before.state_dict().items() if not torch.equal(old, after[name])
    }
    linear = {name for name, part in before.named_modules() if isinstance(part, torch.nn.Linear)}

    assert type(fitted.model) is type(before)
    assert after.keys() == before.state_dict().keys()
    assert changed == {f"{name}.weight" for name in linear} | {"classifier.bias"}
    addition = after["bert.encoder.layer.0.intermediate.dense.weight"]
    addition = addition - before.bert.encoder.layer[0].intermediate.dense.weight
    assert torch.linalg.matrix_rank(addition, atol=1e-6) == 2
    assert all(p.requires_grad for p in fitted.model.parameters())
    ours = evaluate(make_trainee(SplitModel(fitted.model), test))
    assert fitted.test is not None
    assert ours.scores() == pytest.approx(fitted.test.scores(), abs=1e-5)


def test_lora_is_decided_by_the_seed(tiny_tokenizer: Any) -> None:
    one, again, other = (
        fit_tiny(tiny_tokenizer, lora=LoraSettings(), seed=seed) for seed in (0, 0, 1)
    )

    assert torch.equal(weights(one.model), weights(again.model))
    assert not torch.equal(weights(one.model), weights(other.model))


def test_lora_without_its_package_says_what_to_install(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install \"autofreeze\[lora\]\""):
        fit_tiny(tiny_tokenizer, lora=LoraSettings())


def test_every_mode_of_the_trainer_has_a_recipe() -> None:
    assert RECIPES.keys() == set(PEER_MODES)


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


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_a_checkpoint_of_another_problem_is_trained_as_any_other(
    kind: str, tiny_bert: Path, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny_bert, tmp_path / "model")
    configure(copy, problem_type=kind, return_dict=False)
    losses = []
    for folder in (tiny_bert, copy):
        model = load_model(str(folder), TASK.auto_class, 0, pad_token_id=0, **TASK.head_settings)
        fitted = fit_tiny(tiny_tokenizer, model=model)
        assert fitted.model.config.problem_type == "single_label_classification"
        losses.append(fitted.epochs[0].train_loss)
    assert losses[0] == losses[1]
