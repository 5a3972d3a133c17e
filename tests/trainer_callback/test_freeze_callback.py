"""``AutoFreezeCallback`` in a real Trainer: as our own loop, alone and on two processes."""

import json
import logging
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import afcore
from afcore.errors import ConfigError
from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.policy import FreezeState, IntervalStatistics
from afcore.model.forwards import first_output
from afcore.trainer_callback import freeze_callback
from afcore.trainer_callback.freeze_callback import AutoFreezeCallback
from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from tests.trainer_callback import small_trainer
from tests.trainer_callback.small_trainer import DATA, Rows, Seen, make_trainer
from tests.training_setup import SplitState, make_split, run_epochs, scripted

ROOT = Path(afcore.__file__).parent.parent


OF_PEFT = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def gradient_norm() -> AutoFreezeCallback:
    return AutoFreezeCallback("gradient_norm", intervals_per_epoch=2)


def all_weights(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def frozen_names(model: Any, boundary: int) -> set[str]:
    below = ["bert.embeddings.", *(f"bert.encoder.layer.{i}." for i in range(boundary))]
    return {name for name, _ in model.named_parameters() if name.startswith(tuple(below))}


def test_it_trains_and_decides_as_our_own_loop(tmp_path: Path) -> None:
    callback = gradient_norm()
    trainer, seen = make_trainer(tmp_path, callback, max_grad_norm=0.3)
    trainer.train()

    split = make_split(0.0, pool=False)
    split.set_training(0)
    optimizer = SuffixOptimizer(split, learning_rate=1e-3, weight_decay=0.01)
    epochs = run_epochs(
        SplitState(optimizer, FreezeState(), split=split),
        DATA,
        3,
        GradientNorm(intervals_per_epoch=2),
        batches=lambda _epoch: np.split(np.arange(40), 5),
        schedule=Schedule(3, 5),
        max_grad_norm=0.3,
    )
    steps = [step for epoch in epochs for step in epoch.steps]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert max(entry["grad_norm"] for entry in logs) > 0.3
    assert [e["loss"] for e in logs] == pytest.approx([s.loss for s in steps], abs=1e-4)
    assert seen.boundaries == [step.boundary for step in steps]
    assert 0 < seen.boundaries[-1] <= 3
    decisions = [i.decision for epoch in epochs for i in epoch.intervals if i.decision is not None]
    noted = [entry for entry in trainer.state.log_history if "freeze_boundary" in entry]
    assert [entry["freeze_boundary"] for entry in noted] == [d.boundary_after for d in decisions]
    last = f"freeze_eta_block_{3:02d}"
    assert [e[last] for e in noted] == pytest.approx([d.eta[3] for d in decisions], rel=1e-2)
    torch.testing.assert_close(
        all_weights(trainer.model), all_weights(split.model), atol=1e-5, rtol=0
    )
    assert trainer.args.max_grad_norm == 0.3


def test_what_is_frozen_stays_as_it_is_and_has_no_moments(tmp_path: Path) -> None:
    callback = AutoFreezeCallback(scripted([1, 1, 2, 3, 3, 3]), intervals_per_epoch=2)
    trainer, seen = make_trainer(tmp_path, callback, dropout=0.1)
    modes = []

    def note_modes(_module: Any, _args: Any) -> None:
        if trainer.model.training:
            layers = trainer.model.bert.encoder.layer
            modes.append([trainer.model.bert.embeddings.training, *(x.training for x in layers)])

    trainer.model.bert.register_forward_pre_hook(note_modes)
    model, optimizer = trainer.model, trainer.create_optimizer()
    trainer.train()

    boundaries = seen.boundaries
    assert sorted(set(boundaries)) == [0, 1, 2, 3]
    for boundary in (1, 2, 3):
        at = [step for step, frozen in enumerate(boundaries) if frozen >= boundary]
        at = [at[0] - 1, *at]  # as they were when they froze
        names = frozen_names(model, boundary)
        assert len(names) > 5
        for name in names:
            values = [seen.weights[step][name] for step in at]
            assert all(torch.equal(values[0], other) for other in values[1:]), name
    moved = "classifier.weight"
    assert not torch.equal(seen.weights[-1][moved], seen.weights[-2][moved])
    named = dict(model.named_parameters())
    held = {name for name, parameter in named.items() if parameter in optimizer.state}
    assert held == named.keys() - frozen_names(model, 3)
    assert modes[-15:] == [[k == 0, *(i >= k for i in range(4))] for k in boundaries]
    assert all(parameter.requires_grad for parameter in named.values())  # given back


def test_a_boundary_falls_and_what_thaws_trains(tmp_path: Path) -> None:
    callback = AutoFreezeCallback(scripted([2, 2, 2, 0, 0, 0]), intervals_per_epoch=2)
    trainer, seen = make_trainer(tmp_path, callback)
    trainer.train()
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert seen.boundaries == [0] * 2 + [2] * 8 + [0] * 5
    assert torch.equal(seen.weights[1][name], seen.weights[9][name])
    assert not torch.equal(seen.weights[9][name], seen.weights[10][name])


def test_what_its_owner_froze_stays_frozen(tmp_path: Path) -> None:
    callback = AutoFreezeCallback(scripted([1, 1, 1, 0, 0, 0]), intervals_per_epoch=2)
    trainer, _ = make_trainer(tmp_path, callback)
    mine = trainer.model.bert.embeddings.word_embeddings.weight
    mine.requires_grad_(False)
    before = mine.detach().clone()
    trainer.train()
    assert torch.equal(before, mine)
    assert not mine.requires_grad
    assert trainer.model.bert.pooler.dense.weight.requires_grad


@OF_PEFT
def test_adapters_of_frozen_blocks_stay_as_they_are(tmp_path: Path) -> None:
    callback = AutoFreezeCallback(scripted([0, 1, 1, 2, 2, 2]), intervals_per_epoch=2)
    trainer, seen = make_trainer(tmp_path, callback, with_adapters=True)
    began = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert sum("lora_" in name for name in began) == 4 * 4  # A and B of queries and of values
    trainer.train()
    assert callback.boundary == 2
    frozen = {name for name in began if ".layer.0." in name or ".layer.1." in name}
    assert len(frozen) == 4 * 2
    before, after = seen.weights[-4], seen.weights[-1]  # of 15 steps; at 2 after step 10
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == began - frozen


@OF_PEFT
def test_policies_see_losses_and_the_gradients_of_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[IntervalStatistics] = []
    decide = GradientNorm.decide

    def watched(self: GradientNorm, state: FreezeState, statistics: IntervalStatistics) -> Any:
        seen.append(statistics)
        return decide(self, state, statistics)

    monkeypatch.setattr(GradientNorm, "decide", watched)
    trainer, _ = make_trainer(tmp_path, gradient_norm(), with_adapters=True)
    trainer.train()
    assert len(seen) == 6
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    for statistics in seen:
        assert all(norm > 0 for norm in statistics.gradient_norms)
        assert min(losses) - 1e-3 <= statistics.train_loss <= max(losses) + 1e-3


def test_accumulated_passes_are_one_step(tmp_path: Path) -> None:
    found = []
    for size, passes in ((8, 1), (4, 2)):
        callback = gradient_norm()
        trainer, seen = make_trainer(
            tmp_path,
            callback,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
        )
        trainer.train()
        found.append((seen.boundaries, all_weights(trainer.model)))
    assert found[0][0] == found[1][0]
    assert found[0][0][-1] > 0
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=0)


def test_policies_see_the_mean_loss_of_accumulated_passes(tmp_path: Path) -> None:
    """BERT is told how large the whole batch is, and does not look at it."""
    found: list[list[float]] = []

    class Watching(GradientNorm):
        def decide(self, state: Any, statistics: Any) -> Any:
            found[-1].append(statistics.train_loss)
            return super().decide(state, statistics)

    for size, passes in ((8, 1), (4, 2)):
        found.append([])
        trainer, _ = make_trainer(
            tmp_path,
            AutoFreezeCallback(Watching(intervals_per_epoch=1)),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
            learning_rate=0.0,
        )
        trainer.model_accepts_loss_kwargs = True
        trainer.train()
    assert len(found[0]) == 3
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer, Seen]:
    """A training that nothing disturbed, and its checkpoints after every step."""
    folder = tmp_path_factory.mktemp("whole")
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer, seen = make_trainer(folder, gradient_norm(), dropout=0.1, **saving)
    trainer.train()
    return folder, trainer, seen


@pytest.mark.parametrize("restores", [False, True])
@pytest.mark.parametrize("step", [3, 6, 5])
def test_resumed_from_a_checkpoint_it_ends_the_same(
    tmp_path: Path, whole: tuple[Path, Trainer, Seen], step: int, restores: bool
) -> None:
    """Within an interval that has half its gradients, after a decision, at the end of an epoch."""
    folder, undisturbed, whole_seen = whole
    checkpoint = f"checkpoint-{step}"
    shutil.copytree(folder / checkpoint, tmp_path / checkpoint)
    saving = {
        "save_strategy": "steps",
        "save_steps": step,
        "restore_callback_states_from_checkpoint": restores,
    }
    resumed, seen = make_trainer(tmp_path, gradient_norm(), dropout=0.1, **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / checkpoint))

    noted = [
        [entry for entry in one.state.log_history if "freeze_boundary" in entry]
        for one in (undisturbed, resumed)
    ]
    assert noted[0] == noted[1]
    assert whole_seen.boundaries[-1] > 0
    assert torch.equal(all_weights(undisturbed.model), all_weights(resumed.model))
    assert len(seen.weights) in (0, 15 - step)  # with restores, callbacks are made anew


def test_gradients_that_a_checkpoint_lacks_are_added_up_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path, gradient_norm(), **saving)[0].train()
    (tmp_path / "checkpoint-3" / freeze_callback.SUMS_FILE).unlink()
    trainer, _ = make_trainer(tmp_path, gradient_norm(), **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "the interval's gradients are added up from step 3 on" in caplog.text
    assert trainer.state.global_step == 15


def test_gradients_that_are_written_by_half_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest of the checkpoint is whole by then."""

    def killed(_tensors: Any, path: Path) -> None:
        path.write_bytes(b"by half")
        raise KeyboardInterrupt

    saving = {"save_strategy": "steps", "save_steps": 3}
    with monkeypatch.context() as patched:
        patched.setattr(freeze_callback, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            make_trainer(tmp_path, gradient_norm(), **saving)[0].train()
    trainer, _ = make_trainer(tmp_path, gradient_norm(), **saving)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert "the interval's gradients are added up from step 3 on" in caplog.text
    assert trainer.state.global_step == 15


def test_a_checkpoint_of_another_policy_is_refused(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch"}
    make_trainer(tmp_path, gradient_norm(), **saving)[0].train()
    trainer, _ = make_trainer(tmp_path, AutoFreezeCallback(), pretrained=True, **saving)
    with pytest.raises(ConfigError, match=r"made under gradient_norm, .* frozen_start knows noth"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_frozen_start_has_its_rate_and_says_what_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze_callback._say.cache_clear()
    monkeypatch.setattr(freeze_callback, "chance_loss", lambda *_args: 0.0)
    callback = AutoFreezeCallback()
    trainer, seen = make_trainer(
        tmp_path, callback, pretrained=True, eval_strategy="epoch", learning_rate=1e-3
    )
    rates = []
    optimizer = trainer.create_optimizer()
    optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    start = all_weights(trainer.model.bert.encoder.layer[:2]).clone()
    trainer.train()
    assert seen.boundaries == [2] * 15
    assert rates == pytest.approx([2e-3 * (15 - step) / 15 for step in range(15)])
    logged = [e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e]
    assert logged[0] == pytest.approx(1e-3)
    used = [e["freeze_learning_rate"] for e in trainer.state.log_history if "learning_rate" in e]
    assert used == pytest.approx(rates)
    assert torch.equal(start, all_weights(trainer.model.bert.encoder.layer[:2]))
    assert caplog.text.count("train with afcore.fit or `autofreeze run`") == 1
    assert "The head begins as it is" in caplog.text
    assert "trains the others at 2 times the learning rate (0.002 for 0.001)" in caplog.text
    assert "neither thaws nor freezes more: the boundary stays at 2" in caplog.text
    make_trainer(tmp_path, AutoFreezeCallback())[0].train()
    assert caplog.text.count("train with afcore.fit") == 1


def decided(trainer: Any) -> list[int]:
    return [e["freeze_boundary"] for e in trainer.state.log_history if "freeze_boundary" in e]


@pytest.mark.parametrize("rate", [1e-5, 1e-2])
def test_the_default_policy_thaws_at_chance_and_freezes_more_above_it(
    tmp_path: Path, rate: float
) -> None:
    """Labels of one class are 0.33 of the rows; 40 are learned by heart at the higher rate."""
    trainer, seen = make_trainer(
        tmp_path,
        AutoFreezeCallback(),
        pretrained=True,
        eval_strategy="epoch",
        learning_rate=rate,
        num_train_epochs=12,
    )
    trainer.train()
    boundaries = seen.boundaries[::5]
    assert boundaries[0] == 2
    if rate == 1e-5:
        assert boundaries[1:] == [0] * 11
    else:
        assert max(boundaries) == 3
    assert decided(trainer)[:-1] == boundaries[1:]


def test_it_does_not_freeze_what_was_drawn_at_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    freeze_callback._say.cache_clear()
    trainer, seen = make_trainer(tmp_path, AutoFreezeCallback(), eval_strategy="epoch")
    trainer.train()
    assert seen.boundaries == [0] * 15
    assert "0 of its 4 blocks were trained before" in caplog.text


@pytest.mark.parametrize("evaluates", ["no", "several"])
def test_a_policy_that_sees_no_validation_loss_says_that_it_does_not_decide(
    tmp_path: Path, evaluates: str, caplog: pytest.LogCaptureFixture
) -> None:
    freeze_callback._say.cache_clear()
    is_on = evaluates == "several"
    trainer, seen = make_trainer(
        tmp_path, AutoFreezeCallback(), pretrained=True, eval_strategy="epoch" if is_on else "no"
    )
    if is_on:
        trainer.eval_dataset = {"a": trainer.eval_dataset, "b": trainer.eval_dataset}
    trainer.train()
    assert seen.boundaries == [2] * 15
    why = "no evaluation has given an eval_loss" if is_on else "eval_strategy is 'no'"
    assert caplog.text.count("decides by validation losses") == 1
    assert f"decides by validation losses, and {why}: the boundary stays at 2" in caplog.text


class OfSeveralLabels(Rows):
    """A model without a ``problem_type`` sees by its first batch that labels are no numbers."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = super().__getitem__(index)
        return row | {"labels": torch.eye(3)[row["labels"]]}


def test_of_several_labels_chance_is_not_known_once_the_model_has_seen_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    freeze_callback._say.cache_clear()
    rows = OfSeveralLabels(DATA)
    trainer, seen = make_trainer(
        tmp_path, AutoFreezeCallback(), pretrained=True, train=rows, eval_strategy="epoch"
    )
    trainer.eval_dataset = rows
    trainer.train()
    assert trainer.model.config.problem_type == "multi_label_classification"
    assert seen.boundaries == [2] * 15
    assert "neither thaws nor freezes more: the boundary stays at 2" in caplog.text


def test_validation_losses_reach_the_policy_at_the_end_of_their_epochs(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Watching(GradientNorm):
        def decide(self, state: Any, statistics: Any) -> Any:
            seen.append((statistics.step, len(statistics.validation_losses)))
            return super().decide(state, statistics)

    callback = AutoFreezeCallback(Watching(intervals_per_epoch=2, percentile=0))
    trainer, _ = make_trainer(tmp_path, callback, eval_strategy="steps", eval_steps=1)
    trainer.train()
    assert seen == [(2, 0), (5, 1), (7, 1), (10, 2), (12, 2), (15, 3)]


def test_clipping_is_given_back_after_a_training_that_was_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, seen = make_trainer(tmp_path, gradient_norm())
    monkeypatch.setattr(seen, "on_step_end", lambda *_args, **_given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    again, _ = make_trainer(tmp_path, gradient_norm())
    again.args = trainer.args
    again.train()
    assert again.args.max_grad_norm == 1.0


def test_after_a_training_that_was_broken_off_all_of_the_model_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a new Trainer, whose optimizer is made before training begins."""
    trainer, seen = make_trainer(tmp_path, AutoFreezeCallback("static", depth=2))
    monkeypatch.setattr(seen, "on_step_end", lambda *_args, **_given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    again, _ = make_trainer(tmp_path, AutoFreezeCallback("none"), model=trainer.model)
    before = {name: p.detach().clone() for name, p in again.model.named_parameters()}
    again.train()
    kept = [name for name, p in again.model.named_parameters() if torch.equal(p, before[name])]
    assert kept == []


class Reached(TrainerCallback):
    """Blocks of whose output a gradient was computed, in steps of the training."""

    def __init__(self, layers: Any) -> None:
        self.blocks: set[int] = set()
        for block, layer in enumerate(layers):
            layer.register_forward_hook(partial(self._watch, block))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.blocks.clear()  # of how blocks are found

    def _watch(self, block: int, _module: Any, _args: Any, output: Any) -> None:
        hidden = first_output(output)
        if hidden.requires_grad:
            hidden.register_hook(lambda _gradient: self.blocks.add(block))


def test_with_checkpointed_activations_nothing_is_computed_back_through_frozen_blocks(
    tmp_path: Path,
) -> None:
    """Transformers lets the embeddings' output require a gradient there, whatever is frozen."""
    found = []
    for options in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        trainer, _ = make_trainer(
            tmp_path,
            AutoFreezeCallback("static", depth=2),
            activation_checkpointing=options is not None,
            activation_checkpointing_kwargs=options,
        )
        reached = Reached(trainer.model.bert.encoder.layer)
        trainer.add_callback(reached)
        trainer.train()
        assert reached.blocks == {2, 3}, options
        found.append(all_weights(trainer.model))
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-6, rtol=0)


def test_an_evaluation_before_the_first_step_is_of_no_epoch(tmp_path: Path) -> None:
    """Its loss is that of chance, which would thaw what is frozen."""
    trainer, seen = make_trainer(
        tmp_path, AutoFreezeCallback(), pretrained=True, eval_on_start=True, eval_strategy="no"
    )
    trainer.train()
    assert "eval_loss" in trainer.state.log_history[0]
    assert seen.boundaries == [2] * 15


@pytest.mark.parametrize(
    ("given", "keys", "said"),
    [
        ("guardd", {}, "freezing.policy: got 'guardd'"),
        ("static", {"dept": 1}, "did you mean 'freezing.depth'"),
        ({"policy": "gradient_norm", "percentile": 101}, {}, "freezing.percentile: got 101"),
        (GradientNorm(), {"percentile": 101}, "percentile: got 101"),
        (None, {}, "the policy is None; expected its name"),
        (3, {"depth": 1}, "the policy is 3; expected its name"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said_at_once(
    given: Any, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"^AutoFreezeCallback: .*{said}"):
        AutoFreezeCallback(given, **keys)


def test_a_depth_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    trainer, _ = make_trainer(tmp_path, AutoFreezeCallback("static", depth=4))
    with pytest.raises(ConfigError, match="at most 3 can be frozen"):
        trainer.train()


TWO_PROCESSES: dict[str, Any] = {
    "deepspeed": None,
    "fsdp": None,
    "ddp_find_unused_parameters": None,
    "ddp_static_graph": None,
    "gradient_checkpointing": False,
    "world_size": 2,
    "n_gpu": 1,
}
"""What the callback looks at of a Trainer's arguments."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ddp_find_unused_parameters": False}, "Set ddp_find_unused_parameters=True"),
        ({"gradient_checkpointing": True}, "Set ddp_find_unused_parameters=True"),
        ({"ddp_static_graph": True}, "leave ddp_static_graph out"),
        ({"fsdp": "full_shard"}, "DistributedDataParallel"),
        ({"n_gpu": 2, "world_size": 1}, "Start a process for each GPU"),
    ],
)
def test_what_cannot_work_is_refused_before_training(changes: dict[str, Any], said: str) -> None:
    assert all(hasattr(TrainingArguments, name) for name in TWO_PROCESSES)
    check, model = AutoFreezeCallback()._check, make_split().model
    check(SimpleNamespace(**TWO_PROCESSES), model)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        check(SimpleNamespace(**TWO_PROCESSES | changes), model)  # type: ignore[arg-type]


def test_a_model_that_checkpoints_by_itself_is_refused_as_if_the_trainer_were_told_to() -> None:
    arguments: Any = SimpleNamespace(**TWO_PROCESSES)
    model = make_split().model
    model.activation_checkpointing_enable()
    with pytest.raises(ConfigError, match="Set ddp_find_unused_parameters=True"):
        AutoFreezeCallback()._check(arguments, model)
    arguments.ddp_find_unused_parameters = True
    AutoFreezeCallback()._check(arguments, model)


@pytest.mark.slow
def test_two_processes_take_the_decisions_of_one(tmp_path: Path) -> None:
    alone, seen = make_trainer(tmp_path, gradient_norm())
    alone.train()
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *command, small_trainer.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["world"] for one in ranks] == [2, 2]
    assert ranks[0]["boundaries"] == ranks[1]["boundaries"] == seen.boundaries
    assert seen.boundaries[-1] > 0
    assert ranks[0]["weights"] == ranks[1]["weights"]
    histories = [one["history"] for one in ranks] + [alone.state.log_history]
    losses, etas = (
        [[entry[name] for entry in history if name in entry] for history in histories]
        for name in ("loss", "freeze_eta_block_03")
    )
    assert len(losses[0]) == 15
    assert losses[0] == pytest.approx(losses[2], abs=1e-3)
    assert len(etas[0]) >= 2
    assert etas[0] == etas[1] == pytest.approx(etas[2], rel=1e-2)


def test_the_module_s_logger_is_quiet_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Decisions are lines for who asks for them."""
    caplog.set_level(logging.INFO, logger="afcore.trainer_callback")
    make_trainer(tmp_path, gradient_norm())[0].train()
    assert "decision at step 5: boundary 0 -> " in caplog.text
