"""Which errors of an epoch are worth another try."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from afcore.errors import IntegrityError, StoreLostError, StoreUnreachableError, WorkerLostError


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StoreUnreachableError("away"), True),
        (StoreLostError("away for minutes"), False),
        (WorkerLostError("killed"), True),
        (ConnectionResetError("by the peer"), True),
        (TimeoutError("of a socket"), True),
        (TypeError("a mistake"), False),
        (AssertionError(), False),
        (MemoryError(), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (FileNotFoundError("gone"), False),
        (IntegrityError("damaged"), False),
    ],
)
def test_only_what_was_lost_on_the_way_is_tried_again(error: Exception, again: bool) -> None:
    from pipelines.finetune import _may_help

    state: Any = SimpleNamespace(result=lambda raise_on_failure: error)
    task: Any = None
    assert _may_help(task, task, state) is again
