"""``AutoFreezeCallback``: the freezing policies in the loop of Hugging Face's ``Trainer``.

It sees the gradients that the optimizer will see, averaged over accumulated passes and over
processes, before they are clipped: so it clips them itself, to the Trainer's ``max_grad_norm``.
At the end of each interval the policy decides, and the boundary moves. Nothing is cached: the
Trainer runs all blocks in every step, the frozen ones without gradients.

Under ``DistributedDataParallel`` the first process decides for all. Parameters that freeze after
the model was wrapped are to it parameters that a step does not use, so it must look for those
(``find_unused_parameters``, which is the Trainer's default).
"""

import functools
import logging
import math
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from afcore.distributed import ALONE, WorkerGroup
from afcore.errors import ConfigError
from afcore.freezing.policy import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics
from afcore.model.checks import num_pretrained_blocks
from afcore.trainer_callback.chance_loss import chance_loss, is_of_one_label
from afcore.trainer_callback.frozen_prefix import FrozenPrefix, release_model
from afcore.trainer_callback.interval_watch import IntervalWatch
from afcore.trainer_callback.named_policy import named_policy
from afcore.training.gradients import clip_gradients
from afcore.training.loop import interval_around, interval_ends
from afcore.training.schedule import Schedule

__all__ = ["AutoFreezeCallback"]

SUMS_FILE = "autofreeze_sums.safetensors"
"""In a checkpoint's folder: the gradients that an interval had added up until then."""
_TAKEN = "_autofreeze_max_grad_norm"
_log = logging.getLogger(__name__)
_STATES = TypeAdapter(FreezeState)


class AutoFreezeCallback(TrainerCallback, ExportableState):
    """Freezes blocks bottom-up while a ``Trainer`` trains.

    ``Trainer(..., callbacks=[AutoFreezeCallback("gradient_norm", intervals_per_epoch=5)])``.
    Decisions are in ``trainer.state.log_history``. Training that is resumed from a checkpoint goes
    on with its boundary and the policy's memory.

    The default policy freezes what was trained before from the first step, and trains the rest at
    **twice** ``args.learning_rate``: the log's ``learning_rate`` is the scheduler's, and
    ``freeze_learning_rate`` beside it the one that was used. To freeze more, and to thaw where
    nothing is learned, it needs validation losses (``eval_strategy="epoch"``) and the loss of
    chance, which is known of classifiers with one label.

    Args:
        policy: a name, as ``freezing.policy`` in the configuration, or a policy.
        keys: of the policy.

    Raises:
        ConfigError: for an unknown policy or key, or a value that is not allowed.

    Attributes:
        policy: that decides.
        freeze: its state.
    """

    def __init__(self, policy: str | dict[str, Any] | FreezePolicy = "frozen_start", **keys: Any):
        self.policy = named_policy(policy, keys)
        self.freeze = FreezeState()
        self._chance = 0.0
        self._rate = 0.0
        self._max_grad_norm = 0.0
        self._validation_losses: dict[int, float] = {}
        self._pending = False
        self._prefix: FrozenPrefix | None = None
        self._watch: IntervalWatch  # where there is a prefix

    @property
    def boundary(self) -> int:
        """Blocks that are frozen now."""
        return self.freeze.boundary

    def state(self) -> dict[str, Any]:
        """For the checkpoint: JSON."""
        watch = self._watch if self._prefix is not None else None
        record = {
            "freeze": _STATES.dump_python(self.freeze, mode="json"),
            "validation_losses": list(self._validation_losses.items()),
            "pending": self._pending,
            "losses": watch.losses if watch else [],
            "rates": watch.rates if watch else [],
        }
        return {"args": {"policy": self.policy.model_dump()}, "attributes": {"record": record}}

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Undo what a training that was broken off left frozen.

        Here, as the optimizer is made before training begins, of what then has gradients.
        """
        release_model(given["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Find the blocks; freeze what is frozen from the start, or was when it was saved."""
        self._check(args, given["model"])
        record = self._record(state)
        group = _group(args)
        self._group = group
        if self._prefix is not None:  # of a training that was broken off
            self._watch.close()
        self._prefix = FrozenPrefix(given["model"])
        split = self._prefix.split
        adds_up = self.policy.keeps_statistics and self.policy.decides
        self._adds_up = adds_up
        self._watch = IntervalWatch(self._prefix.model, split, group, adds_up=adds_up)
        _give_back_clipping(args)  # of a training that was broken off
        self._max_grad_norm = 0.0
        if adds_up and args.max_grad_norm:  # else the Trainer clips, before we look
            self._max_grad_norm = args.max_grad_norm
            setattr(args, _TAKEN, args.max_grad_norm)
            args.max_grad_norm = 0.0
        self._steps_per_epoch = _steps_per_epoch(args, given["train_dataloader"])
        self._schedule = Schedule(
            state.max_steps / self._steps_per_epoch, self._steps_per_epoch, kind="constant"
        )
        if record is None:
            self._validation_losses, self._pending = {}, False
            try:
                trained = num_pretrained_blocks(split)
                self.freeze = self.policy.begin(split.num_blocks, trained)
                usual = self.policy.begin(split.num_blocks).boundary
            except ValueError as error:
                raise ConfigError(f"AutoFreezeCallback: {error}") from error
            if self.boundary < usual and group.is_first:
                _say(
                    f"{trained} of its {split.num_blocks} blocks were trained before: "
                    f"{self.boundary} are frozen from the start, and not {usual}."
                )
        else:
            self.freeze = _STATES.validate_python(record["freeze"])
            self._validation_losses = {int(e): loss for e, loss in record["validation_losses"]}
            self._pending = record["pending"]
        self._prefix.move(self.boundary, given["optimizer"].state)
        self._find_interval(state)
        if record is not None and record["rates"]:
            self._go_on(args, state, record)
        dataset = getattr(given["train_dataloader"], "dataset", None)
        self._evaluates = args.eval_strategy != "no"
        self._chance = chance_loss(split.model, dataset, args.label_smoothing_factor)
        if group.is_first:
            self._say_what_it_does(args)
            _log.info("boundary %d of %d", self.boundary, split.num_blocks)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The decision at an epoch's end, had it been cut off; then the epoch's intervals."""
        if self._pending:
            self._decide(state, given["optimizer"])
        self._find_interval(state)
        if not self._watch.num_steps:
            before, after = interval_around(self._ends, self._number(state))
            self._watch.begin(after - before)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Look at the gradients; clip them; set the policy's rate for this step."""
        groups = given["optimizer"].param_groups
        self._rates = [group["lr"] for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * self.freeze.rate
        self._rate = float(groups[0]["lr"])
        norms = self._watch.add(self._rate, may_be_left_out=args.fp16)
        if self._max_grad_norm:
            clip_gradients(norms, self._max_grad_norm)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """The scheduler finds the rate that it had set."""
        for group, rate in zip(given["optimizer"].param_groups, self._rates, strict=True):
            group["lr"] = rate

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Beside the scheduler's rate the one of the last step."""
        logs = given.get("logs") or {}
        if self._prefix is not None and "learning_rate" in logs:
            for line in (logs, state.log_history[-1]):
                line["freeze_learning_rate"] = self._rate

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """At the end of an interval, decide; at that of an epoch, when it has been evaluated."""
        number = self._number(state)
        if number in self._ends:
            self._pending = True
            if number < self._ends[-1]:
                self._decide(state, given["optimizer"])
                before, after = interval_around(self._ends, number)
                self._watch.begin(after - before)
        if control.should_save:
            self._watch.read()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Decide now, where no evaluation follows."""
        if self._pending and not control.should_evaluate:
            self._decide(state, given["optimizer"])
        if control.should_save:
            self._watch.read()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Note the validation loss; decide, at the end of an epoch."""
        if self._prefix is None:  # an evaluation outside of training
            return
        loss = (given.get("metrics") or {}).get("eval_loss")
        if loss is not None and self._number(state):  # not of `eval_on_start`
            self._validation_losses[self._epoch] = float(loss)
        if self._pending:
            self._decide(state, given["optimizer"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Beside the checkpoint, the gradients that the interval has added up."""
        tensors = self._watch.sums.tensors() if self._prefix is not None else {}
        folder = _checkpoint(args, state)
        if args.should_save and tensors and folder.is_dir():
            draft = folder / f"{SUMS_FILE}.draft"
            save_file({name: t.contiguous() for name, t in tensors.items()}, draft)
            os.replace(draft, folder / SUMS_FILE)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Give back what was changed for the training."""
        _give_back_clipping(args)
        self._watch.close()
        assert self._prefix is not None
        self._prefix.release()
        self._prefix = None

    def _check(self, args: TrainingArguments, model: Any) -> None:
        """Refuse what would go wrong in the middle of a training."""
        if args.deepspeed or args.fsdp:
            raise ConfigError(
                "AutoFreezeCallback: gradients and parameters are not whole on any process with "
                "DeepSpeed or FSDP. Train with DistributedDataParallel (torchrun), or one process"
            )
        if args.n_gpu > 1:
            raise ConfigError(
                f"AutoFreezeCallback: one process trains on copies of the model on {args.n_gpu} "
                "GPUs (DataParallel), of which it sees none. Start a process for each GPU "
                "(torchrun), or show it one of them (CUDA_VISIBLE_DEVICES=0)"
            )
        unused = args.ddp_find_unused_parameters
        if unused is None:  # as the Trainer sets it
            checkpoints = isinstance(model, PreTrainedModel) and model.is_activation_checkpointing
            unused = not (checkpoints or args.gradient_checkpointing)
        if args.world_size > 1 and (not unused or args.ddp_static_graph):
            raise ConfigError(
                "AutoFreezeCallback: parameters that freeze are unused in later steps, which "
                "DistributedDataParallel must look for. Set ddp_find_unused_parameters=True (its "
                "default without gradient_checkpointing) and leave ddp_static_graph out"
            )

    def _say_what_it_does(self, args: TrainingArguments) -> None:
        """Before the first step, to who may expect something else."""
        assert self._prefix is not None
        policy, freeze = self.policy, self.freeze
        head = " The head begins as it is: it is solved there only." if policy.solves_head else ""
        _say(
            "frozen blocks are run in every step, without gradients. To read what they put out "
            f"from a cache instead, train with afcore.fit or `autofreeze run`.{head}"
        )
        if freeze.rate != 1:
            _say(
                f"{policy.policy} freezes {freeze.boundary} of {self._prefix.split.num_blocks} "
                f"blocks and trains the others at {freeze.rate:g} times the learning rate "
                f"({freeze.rate * args.learning_rate:g} for {args.learning_rate:g}); "
                "the log has it as freeze_learning_rate."
            )
        if policy.stops and not self._evaluates:
            self._say_blind("eval_strategy is 'no'")
        elif policy.stops and not self._chance:
            self._say_without_chance()

    def _say_blind(self, why: str) -> None:
        _say(
            f"{self.policy.policy} decides by validation losses, and {why}: the boundary stays at "
            f"{self.boundary}. Set eval_strategy='epoch', or choose another policy (gradient_norm)."
        )

    def _say_without_chance(self) -> None:
        assert self._prefix is not None
        _say(
            f"the loss of chance is not known of {type(self._prefix.split.model).__name__} "
            f"with such labels, so {self.policy.policy} neither thaws nor freezes more: the "
            f"boundary stays at {self.boundary}. For one that moves choose another policy "
            "(gradient_norm)."
        )

    def _record(self, state: TrainerState) -> dict[str, Any] | None:
        """Of the checkpoint that training is resumed from.

        Read here, since the Trainer restores callbacks only where it is told to.

        Raises:
            ConfigError: for one of another policy.
        """
        known: Any = state.stateful_callbacks or {}
        saved = known.get(type(self).__name__, {})
        saved = saved[0] if isinstance(saved, list) and saved else saved
        record = saved.get("attributes", {}).get("record") if isinstance(saved, dict) else None
        if not state.global_step or record is None:
            return None
        policy, wanted = saved["args"]["policy"]["policy"], self.policy.policy
        if policy != wanted:
            raise ConfigError(
                f"AutoFreezeCallback: the checkpoint was made under {policy}, of whose memory "
                f"{wanted} knows nothing. Go on under {policy}, or begin anew from its weights"
            )
        found: dict[str, Any] = record
        return found

    def _go_on(self, args: TrainingArguments, state: TrainerState, record: dict[str, Any]) -> None:
        """Within the interval that the checkpoint was made in."""
        done, number = len(record["rates"]), self._number(state)
        before = self._ends[-1] - done if self._pending else number - done
        _, after = interval_around(self._ends, max(0, before))
        sums, path = {}, _checkpoint(args, state) / SUMS_FILE
        if path.is_file():
            sums = load_file(path)
        elif self._adds_up:
            _log.warning(
                "%s is not there: the interval's gradients are added up from step %d on",
                *(path, state.global_step),
            )
        self._watch.load(record["losses"], record["rates"], sums, after - before)

    def _find_interval(self, state: TrainerState) -> None:
        """Number of the epoch, from 1, and the steps in it after which a decision is due."""
        done = state.global_step - (1 if self._pending else 0)
        self._epoch = done // self._steps_per_epoch + 1
        intervals = self.policy.intervals_per_epoch if self._adds_up else 1
        self._ends = interval_ends(self._schedule.steps_in(self._epoch), intervals)

    def _number(self, state: TrainerState) -> int:
        """Steps done in the epoch."""
        return int(state.global_step) - (self._epoch - 1) * self._steps_per_epoch

    def _decide(self, state: TrainerState, optimizer: Any) -> None:
        self._pending = False
        assert self._prefix is not None
        at_end = self._number(state) == self._ends[-1]
        losses = [
            loss for epoch, loss in self._validation_losses.items() if epoch < self._epoch or at_end
        ]
        if self._chance and not is_of_one_label(self._prefix.split.model):
            self._chance = 0.0
            if self.policy.stops and self._group.is_first:
                self._say_without_chance()
        policy, statistics = self.policy, self._statistics(state, losses)
        self._watch.begin(1)
        if not policy.decides:
            return
        if policy.stops and not losses:  # one that says when training has settled looks at them
            if at_end and self._evaluates and self._group.is_first:
                self._say_blind("no evaluation has given an eval_loss")
            return
        before, decision = self.boundary, None
        if before < self._prefix.split.num_blocks - 1 or not policy.keeps_statistics:
            self.freeze, decision = policy.decide(self.freeze, statistics)
        if decision is not None:
            self._note(state, decision)
        if self.boundary != before:
            self._prefix.move(self.boundary, optimizer.state)

    def _statistics(self, state: TrainerState, losses: list[float]) -> IntervalStatistics:
        """The first process's, so that all decide alike to the last bit."""
        own = IntervalStatistics(
            **self._watch.statistics(),
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=self._epoch,
            num_epochs=self._schedule.num_epochs,
            cycle_share=self._schedule.cycle_share(self._epoch),
            validation_losses=tuple(losses),
            chance_loss=self._chance,
        )
        told: IntervalStatistics = self._group.tell(own)
        return told

    def _note(self, state: TrainerState, decision: FreezeDecision) -> None:
        assert self._prefix is not None
        eta = {
            f"freeze_eta_block_{block:02d}": value
            for block, value in enumerate(decision.eta)
            if math.isfinite(value)
        }
        at = {"epoch": float(state.epoch or 0.0), "step": state.global_step}
        state.log_history.append({**at, "freeze_boundary": decision.boundary_after, **eta})
        if self._group.is_first:
            _log.info(
                "decision at step %d: boundary %d -> %d of %d",
                *(state.global_step, decision.boundary_before, decision.boundary_after),
                self._prefix.split.num_blocks,
            )


def _group(args: TrainingArguments) -> WorkerGroup:
    """The Trainer's processes."""
    if args.world_size == 1 or not dist.is_initialized():
        return ALONE
    return WorkerGroup(dist.get_rank(), dist.get_world_size(), args.world_size)


def _give_back_clipping(args: TrainingArguments) -> None:
    """To the Trainer."""
    taken = vars(args).pop(_TAKEN, None)
    if taken is not None:
        args.max_grad_norm = taken


def _steps_per_epoch(args: TrainingArguments, loader: Any) -> int:
    try:
        return max(1, math.ceil(len(loader) / args.gradient_accumulation_steps))
    except TypeError as error:
        raise ConfigError(
            "AutoFreezeCallback: intervals are parts of an epoch, and the training set has no "
            "length. Give a datasets.Dataset instead of an IterableDataset"
        ) from error


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"


@functools.cache
def _say(what: str) -> None:
    """Once in a process."""
    _log.warning("AutoFreezeCallback: %s", what)
