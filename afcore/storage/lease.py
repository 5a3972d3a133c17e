"""The right of one process to work on one thing, kept alive by a heartbeat.

A lease is a row of numbered objects under a folder: ``<folder>/000001.json`` belongs to the first
holder, ``000002.json`` to the one who took over, and so on. Taking over means creating the next
number, which exactly one contender can (:meth:`Storage.put_new`); old rows stay, so they are also
the log of who worked how long. A holder is dead when it released, when its heart has not
beaten for :data:`EXPIRY_SECONDS`, or at once when it was a process of this machine that is gone.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from afcore.errors import LeaseHeldError, LeaseLostError, StoreUnreachableError
from afcore.storage.objects import Storage, Stored

__all__ = [
    "BEAT_SECONDS",
    "EXPIRY_SECONDS",
    "Attempt",
    "Lease",
    "attempts",
    "check_holder",
    "is_held",
]

BEAT_SECONDS = 5.0
EXPIRY_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One holder's time: seconds since the epoch (UTC)."""

    host: str
    pid: int
    process_started: float
    acquired: float
    beat: float
    released: bool

    @property
    def seconds(self) -> float:
        """How long this holder is known to have worked."""
        return self.beat - self.acquired

    def is_alive(self, now: float) -> bool:
        """Whether the holder must still be taken to be at work."""
        if self.released or now - self.beat > EXPIRY_SECONDS:
            return False
        if self.host != _machine():
            return True
        try:
            started = float(psutil.Process(self.pid).create_time())
        except psutil.NoSuchProcess:
            return False
        return abs(started - self.process_started) < 1.0


class Lease:
    """Hold ``folder`` while inside ``with``; the heart beats in a thread of its own.

    Args:
        storage: where.
        folder: of the lease.
        what: its name in messages.
        since: when the holder's work began, seconds since the epoch; None: on entering.
        logged: leave the row behind, as a log of who worked how long.

    Raises:
        LeaseHeldError: on entering, when another live process holds it.
        LeaseLostError: from :meth:`check`, when the lease was lost to another holder.
    """

    def __init__(
        self,
        storage: Storage,
        folder: str,
        what: str,
        since: float | None = None,
        *,
        logged: bool = True,
    ) -> None:
        self._storage = storage
        self._folder = folder
        self._what = what
        self._since = since
        self._logged = logged
        self._stopping = threading.Event()
        self._lost = False
        self._beating = threading.Lock()

    def __enter__(self) -> "Lease":
        rows = attempts(self._storage, self._folder)
        now = time.time()
        newest = max(rows, default=0)
        if newest and rows[newest].is_alive(now):
            last = rows[newest]
            host = last.host.partition("/")[0]
            raise LeaseHeldError(
                f"{self._what} is already being worked on by process {last.pid} on {host} "
                f"(last sign {now - last.beat:.0f} s ago). Wait for it, or stop it first."
            )
        process = psutil.Process()
        self._attempt = Attempt(
            host=_machine(),
            pid=os.getpid(),
            process_started=process.create_time(),
            acquired=self._since or now,
            beat=now,
            released=False,
        )
        self.number = newest + 1
        created = self._storage.put_new(self._key(self.number), _encode(self._attempt))
        if not created and not self._is_ours():
            raise LeaseHeldError(f"{self._what} was taken up by another process just now")
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        try:
            if not self._lost and self._logged:
                self._write(released=True)
            elif not self._lost:
                self.check()
                self.forget_earlier()
                self._storage.delete(self._key(self.number))
        except LeaseLostError:
            pass
        except StoreUnreachableError as problem:
            # What is being raised says more; and who is gone holds nothing for long.
            if error is None:
                _log.warning("%s is not given back: %s", self._what, problem)

    def check(self) -> None:
        """Make sure, before something irreversible, that nobody took over.

        Raises:
            LeaseLostError: when somebody did.
        """
        try:
            check_holder(self._storage, self._folder, self.number)
        except LeaseLostError:  # not a store that does not answer just now
            self._lost = True
            raise

    def seconds(self) -> float:
        """Seconds worked so far by every holder, this one included."""
        self._write(released=False)
        rows = attempts(self._storage, self._folder)
        return sum(attempt.seconds for attempt in rows.values())

    def forget_earlier(self) -> None:
        """Begin the count of attempts anew with this one."""
        for number in attempts(self._storage, self._folder):
            if number < self.number:
                self._storage.delete(self._key(number))

    def _is_ours(self) -> bool:
        """Whether the row that was there already is what we wrote, and only the answer was lost."""
        return attempts(self._storage, self._folder).get(self.number) == self._attempt

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_SECONDS):
            try:
                self.check()
                self._write(released=False)
            except Exception as error:  # whatever a store may raise: the next beat may do
                _log.warning("heartbeat of %s: %s", self._what, error)
                if self._lost:
                    return

    def _write(self, released: bool) -> None:
        with self._beating:
            beat = Attempt(**{**asdict(self._attempt), "beat": time.time(), "released": released})
            self._storage.put(self._key(self.number), _encode(beat))

    def _key(self, number: int) -> str:
        return _key(self._folder, number)


def check_holder(storage: Storage, folder: str, number: int) -> None:
    """Make sure that holder ``number`` still is the newest.

    Raises:
        LeaseLostError: when another one took over.
    """
    if storage.exists(_key(folder, number + 1)):
        raise LeaseLostError(
            f"{storage.uri(folder)} was taken over by another process, because this one showed no "
            f"sign of life for {EXPIRY_SECONDS:.0f} s. Nothing more is written here."
        )


def attempts(storage: Storage, folder: str) -> dict[int, Attempt]:
    """Every holder so far by number, oldest first."""
    rows = {}
    for number, stored in _numbers(storage, folder).items():
        with contextlib.suppress(KeyError):  # its holder has just ended and left no log
            rows[number] = _read(storage, _key(folder, number), stored.modified)
    return rows


def is_held(storage: Storage, folder: str) -> bool:
    """Whether a live process holds the lease; the newest row says so, and it alone is read."""
    numbers = _numbers(storage, folder)
    while numbers:
        newest = max(numbers)
        stored = numbers.pop(newest)
        with contextlib.suppress(KeyError):  # its holder has just ended and left no log
            row = _read(storage, _key(folder, newest), stored.modified)
            return row.is_alive(time.time())
    return False


def _numbers(storage: Storage, folder: str) -> dict[int, Stored]:
    """Of the rows that are there."""
    names = ((key.rpartition("/")[2], stored) for key, stored in storage.walk(folder))
    found = ((name.removesuffix(".json"), stored) for name, stored in names)
    return {int(name): stored for name, stored in found if name.isdecimal()}  # others: not ours


def _key(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def _machine() -> str:
    """Where a process id means what it means here: host, boot and process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot}/{namespace}"


def _encode(attempt: Attempt) -> bytes:
    return json.dumps(asdict(attempt)).encode()


def _read(storage: Storage, key: str, written: float) -> Attempt:
    """A damaged row is that of a holder who is gone: a live one soon writes it again."""
    try:
        return Attempt(**json.loads(storage.get(key)))
    except (ValueError, TypeError):
        _log.warning("%s is damaged; its holder is taken to be gone", storage.uri(key))
        return Attempt("", 0, 0.0, acquired=written, beat=written, released=True)
