import pickle

import pytest

from afcore.errors import (
    AutoFreezeError,
    DataError,
    IntegrityError,
    StoppedError,
    StorageFullError,
    WorkerLostError,
)
from afcore.launch.job import Job
from afcore.launch.outcome import Outcome, outcome_of, raise_cause

JOB = Job(print, (), num_workers=3, what="in epoch 4")
DATA = outcome_of(DataError("no rows"))
CLOSED = outcome_of(ConnectionError("closed by peer"))
BUG = outcome_of(ZeroDivisionError("a bug"))
STOPPED = outcome_of(StoppedError("in epoch 4"))
FULL = outcome_of(StorageFullError("disk full"))
LOST = outcome_of(WorkerLostError("the group broke"))
FINE = Outcome()
WHOLE = (
    r"^stopped in epoch 4, as asked by SIGTERM; what is committed stands\. The same command goes "
    r"on from there\.$"
)
KILL = "its process was ended by SIGKILL"


@pytest.mark.parametrize(
    ("outcomes", "lost", "stopped", "kind", "message"),
    [
        ({0: (1, CLOSED), 1: (1, DATA)}, {}, False, DataError, r"^no rows$"),
        ({0: (1, LOST), 1: (2, DATA)}, {}, False, DataError, r"^no rows$"),
        ({0: (2, CLOSED)}, {1: (1, KILL)}, False, WorkerLostError, r"^worker 1 of 3 .* SIGKILL"),
        ({0: (1, CLOSED)}, {1: (1.1, KILL)}, False, WorkerLostError, r"^worker 1 .* epoch 4"),
        ({0: (1, BUG)}, {1: (3, KILL)}, False, RuntimeError, r"^worker 0 .*ZeroDivisionError: a"),
        ({0: (2, CLOSED), 1: (1, BUG)}, {}, False, RuntimeError, r"^worker 1 of 3 failed"),
        ({0: (1, LOST)}, {}, False, WorkerLostError, r"^the group broke$"),
        ({0: (1, STOPPED), 1: (1, STOPPED)}, {}, False, StoppedError, WHOLE),
        ({0: (1, STOPPED), 1: (2, CLOSED)}, {}, True, StoppedError, WHOLE),
        ({}, {0: (1, KILL), 1: (1, KILL)}, True, StoppedError, WHOLE),
        ({0: (1, FINE), 1: (1, FINE)}, {}, True, StoppedError, WHOLE),
        ({0: (1, FULL), 1: (2, STOPPED)}, {}, True, StorageFullError, r"^disk full$"),
    ],
)
def test_the_cause_is_raised_and_not_what_follows_from_it(
    outcomes: dict[int, tuple[float, Outcome]],
    lost: dict[int, tuple[float, str]],
    stopped: bool,
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message) as caught:
        raise_cause(JOB, outcomes, lost, stopped=stopped)
    assert type(caught.value) is kind


def test_workers_that_returned_raise_nothing() -> None:
    raise_cause(JOB, {0: (1, FINE), 1: (2, FINE)}, {}, stopped=False)


def test_a_class_that_the_parent_does_not_know_travels_as_text() -> None:
    class OddError(AutoFreezeError):
        pass

    assert isinstance(outcome_of(IntegrityError("x")).error, IntegrityError)
    odd = outcome_of(OddError("x"))
    assert (odd.error, odd.foreign) == (None, "OddError: x")


def test_what_ours_says_survives_its_way() -> None:
    arrived = pickle.loads(pickle.dumps(STOPPED))
    assert str(arrived.error) == str(StoppedError("in epoch 4"))
