"""What workers do in test_distributed."""

import time

import torch

from afcore import distributed
from afcore.activations.materialize import materialize
from afcore.distributed import join_group
from afcore.errors import ConfigError, LeaseLostError
from afcore.storage.objects import Storage
from tests.training_setup import new_set

__all__ = ["another_data", "extend_a_set", "late_for_a_step", "lost_lease", "same_data"]


def another_data() -> None:
    """The last worker has other data."""
    with join_group(torch.device("cpu")) as group:
        group.check_same("data", "other" if group.rank else "these")


def same_data() -> None:
    """All have the same."""
    with join_group(torch.device("cpu")) as group:
        group.check_same("data", "these")
        if group.tell(group.rank) != 0 or group.gather(group.rank) != [0, 1]:
            raise ConfigError("workers do not hear each other")
        if not [group.wants_to_stop(bool(group.rank)) for _ in range(2)][-1]:
            raise ConfigError("a wish to stop was not heard")


def lost_lease() -> None:
    """The first worker alone has a lease, and loses it; afterwards they still hear each other."""

    def check() -> None:
        raise LeaseLostError("taken over")

    with join_group(torch.device("cpu")) as group:
        group.checked_by_first(lambda: None)
        try:
            group.checked_by_first(check if group.is_first else lambda: None)
        except LeaseLostError as error:
            if str(error) != "taken over" or group.tell(group.rank) != 0:
                raise ConfigError("workers do not hear each other") from None
        else:
            raise ConfigError("a worker did not hear that the lease was lost")


def late_for_a_step(step_seconds: float) -> None:
    """The last worker is late for longer than joining may take."""
    distributed.JOIN_SECONDS = 5.0
    distributed.STEP_SECONDS = step_seconds
    with join_group(torch.device("cpu")) as group:
        if group.rank:
            time.sleep(8.0)
        if group.mean(torch.tensor([float(group.rank)])).item() != 0.5:
            raise ConfigError("another mean")


def extend_a_set(root: str) -> None:
    """Build a set of small shards, then one that keeps them, with shards of new rows for each."""
    from afcore.activations.extending import note_extendable
    from tests.activations import test_extending as extending

    for module in (extending.extending, extending.writer_module):
        module.plan_layout = extending.small_layout
    storage = Storage(root)
    with join_group(torch.device("cpu")) as group:
        for name, ids in (("a", extending.FIRST), ("b", extending.MANY)):
            plan, runner = None, extending.CountingRunner(ids)
            if group.is_first:
                found = extending.extension(storage, runner, f"activations/{name}")
                plan = found.plan if found is not None else None
            new = new_set(f"activations/{name}", [2], recipe=extending.recipe(runner))
            made = materialize(storage, new, runner, group=group, plan=group.tell(plan))
            extending.check_rows(made, runner)
            if group.is_first:
                note_extendable(storage, made)
            num_run = group.gather(runner.num_run)
    wanted = len(set(extending.MANY) - set(extending.FIRST))
    if sum(num_run) != wanted or not all(num_run):
        raise ConfigError(f"the workers computed {num_run} of {wanted} new examples")
