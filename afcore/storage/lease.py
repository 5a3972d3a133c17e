"""The right of one process to work on one thing, kept alive by a heartbeat.

A lease is a row of numbered objects under a folder: ``<folder>/000001.json`` belongs to the first
holder, ``000002.json`` to the one who took over, and so on. Taking over means creating the next
number, which exactly one contender can (:meth:`Storage.put_new`); old rows stay, so they are also
the log of who worked how long. A holder is dead when it released, when its heart has not
beaten for :data:`EXPIRY_SECONDS`, or at once when it was a process of this machine that is gone.

Clocks may be wrong, and are set. So who finds that a heart has not beaten for long, or beats in the
future, watches it for some beats by a clock of its own before it takes over; and how long a holder
worked is measured by a clock that nobody sets.
"""

import contextlib
import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType

import psutil

from afcore.errors import AutoFreezeError, LeaseHeldError, LeaseLostError
from afcore.interrupt import stop_requested
from afcore.processes import KnownProcess
from afcore.storage.objects import Storage
from afcore.storage.stored import Stored

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
_WATCHED_BEATS = 2.5
"""For how many beats a heart is watched that seems to be still."""
_POLLS_A_BEAT = 10
_NOBODY = KnownProcess("", 0, 0.0)
"""Who holds a row that cannot be read."""

_first_seen: dict[str, tuple["Attempt", float]] = {}
"""Rows by their addresses: as last found here, and since when, by the monotonic clock."""
_not_given_back: dict[str, float] = {}
"""Rows that this process wrote and could not mark as released: when they were acquired."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One holder's time: seconds since the epoch (UTC).

    ``worked_seconds`` are measured, from ``acquired`` to ``beat``; None of a damaged row.
    """

    process: KnownProcess
    acquired: float
    beat: float
    released: bool
    worked_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """How long this holder is known to have worked."""
        if self.worked_seconds is not None:
            return self.worked_seconds
        return max(0.0, self.beat - self.acquired)

    @property
    def is_gone(self) -> bool:
        """Whether the holder is known to work no more, whatever the clocks say."""
        return self.released or (self.process.is_here and self.process.find() is None)

    def has_just_beaten(self) -> bool:
        """Whether that is so, as far as the holder's clock and this machine's agree."""
        return abs(time.time() - self.beat) <= EXPIRY_SECONDS


class Lease:
    """Hold ``folder`` while inside ``with``; the heart beats in a thread of its own.

    Args:
        storage: where.
        folder: of the lease.
        what: its name in messages.
        since: when the holder's work began, by :func:`time.monotonic`; None: on entering.
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
        newest = max(rows, default=0)
        if newest and _lives(self._storage, _key(self._folder, newest), rows[newest]):
            last = rows[newest]
            silent = max(0.0, time.time() - last.beat)
            raise LeaseHeldError(
                f"{self._what} is already being worked on by process {last.process.pid} on "
                f"{last.process.host} (last sign {silent:.0f} s ago). Wait for it, or stop it "
                "first."
            )
        self._began = time.monotonic() if self._since is None else self._since
        worked, now = time.monotonic() - self._began, time.time()
        self._attempt = Attempt(
            process=KnownProcess.of(psutil.Process()),
            acquired=now - worked,
            beat=now,
            released=False,
            worked_seconds=worked,
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
        except AutoFreezeError as problem:
            _not_given_back[self._storage.uri(self._key(self.number))] = self._attempt.acquired
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
            if not self._is_ours_still():
                raise _taken_over(self._storage, self._folder)
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

    def _is_ours_still(self) -> bool:
        """Whether the row was neither deleted since, nor written by another one with its number.

        That happens to who hung while others took leases that leave no log, and gave them back.
        """
        try:
            row = _read(self._storage, self._key(self.number), self._attempt.beat)
        except KeyError:
            return False
        return _is_damaged(row) or _holder(row) == _holder(self._attempt)

    def _beat(self) -> None:
        said = False
        while not self._stopping.wait(BEAT_SECONDS):
            try:
                self._beat_once()
                said = False
            except Exception as error:  # whatever a store may raise: the next beat may do
                if not said:
                    _log.warning("heartbeat of %s: %s", self._what, error)
                said = True
                if self._lost:
                    return

    def _beat_once(self) -> None:
        self.check()
        self._write(released=False)

    def _write(self, released: bool) -> None:
        with self._beating:
            beat = replace(
                self._attempt,
                beat=time.time(),
                worked_seconds=time.monotonic() - self._began,
                released=released,
            )
            self._storage.put(self._key(self.number), _encode(beat))

    def _key(self, number: int) -> str:
        return _key(self._folder, number)


def check_holder(storage: Storage, folder: str, number: int) -> None:
    """Make sure that holder ``number`` still is the newest.

    Raises:
        LeaseLostError: when another one took over.
    """
    if storage.exists(_key(folder, number + 1)):
        raise _taken_over(storage, folder)


def _taken_over(storage: Storage, folder: str) -> LeaseLostError:
    return LeaseLostError(
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


def is_held(storage: Storage, folder: str, *, watched: bool = False) -> bool:
    """Whether a live process holds the lease; the newest row says so, and it alone is read.

    Args:
        storage: where.
        folder: of the lease.
        watched: look twice before it is taken for dead, as who takes over does; for what cannot be
            undone. Whoever asks for many asks for all of them unwatched first, and so waits once.
    """
    numbers = _numbers(storage, folder)
    while numbers:
        newest = max(numbers)
        stored, key = numbers.pop(newest), _key(folder, newest)
        with contextlib.suppress(KeyError):  # its holder has just ended and left no log
            row = _read(storage, key, stored.modified)
            if watched:
                return _lives(storage, key, row)
            _still_seconds(storage.uri(key), row)
            return not row.is_gone and row.has_just_beaten()
    return False


def _numbers(storage: Storage, folder: str) -> dict[int, Stored]:
    """Of the rows that are there."""
    names = ((key.rpartition("/")[2], stored) for key, stored in storage.walk(folder))
    found = ((name.removesuffix(".json"), stored) for name, stored in names)
    return {int(name): stored for name, stored in found if name.isdecimal()}  # others: not ours


def _lives(storage: Storage, key: str, row: Attempt) -> bool:
    """Whether a holder must be taken to be at work: for certain, if need be by watching it."""
    if row.is_gone or row.has_just_beaten():
        return not row.is_gone
    address = storage.uri(key)
    while _still_seconds(address, row) < _WATCHED_BEATS * BEAT_SECONDS:
        if stop_requested():
            return True
        time.sleep(BEAT_SECONDS / _POLLS_A_BEAT)
        try:
            found = _read(storage, key, row.beat)
        except KeyError:  # it ended, and left no log
            return False
        if found != row:
            return not found.is_gone
    return False


def _still_seconds(address: str, row: Attempt) -> float:
    """How long a row is known to be as it is."""
    known, since = _first_seen.get(address, (None, 0.0))
    if known != row:
        since = time.monotonic()
        _first_seen[address] = row, since
    return time.monotonic() - since


def _key(folder: str, number: int) -> str:
    return f"{folder}/{number:06d}.json"


def _holder(row: Attempt) -> tuple[KnownProcess, float]:
    return row.process, row.acquired


def _is_damaged(row: Attempt) -> bool:
    return row.process == _NOBODY


def _encode(attempt: Attempt) -> bytes:
    return json.dumps(asdict(attempt)).encode()


def _read(storage: Storage, key: str, written: float) -> Attempt:
    """A damaged row is that of a holder who is gone: a live one soon writes it again."""
    read = storage.get(key)
    try:
        fields = json.loads(read)
        row = Attempt(**{**fields, "process": KnownProcess(**fields["process"])})
    except (ValueError, TypeError, KeyError):
        _log.warning("%s is damaged; its holder is taken to be gone", storage.uri(key))
        return Attempt(_NOBODY, acquired=written, beat=written, released=True)
    given_back = _not_given_back.get(storage.uri(key)) == row.acquired
    return replace(row, released=True) if given_back else row
