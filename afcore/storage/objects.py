"""One root URI (``file``, ``s3``, ``memory``) over fsspec: whole objects, put atomically.

Keys are relative paths with ``/``. An object is there whole or not at all. Object stores are
read without a listing cache, so that what another process wrote is seen.
"""

import contextlib
import functools
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from afcore.errors import (
    AutoFreezeError,
    IntegrityError,
    StoreError,
    StoreLostError,
    StoreRefusedError,
    StoreUnreachableError,
    causes,
    in_one_line,
)
from afcore.outage import outage_of
from afcore.storage.backends.backend import Seen, unseen
from afcore.storage.explain import raise_explained
from afcore.storage.root import open_root
from afcore.storage.stored import Found, Stored

__all__ = ["Storage", "StorageUsage"]

P = ParamSpec("P")
R = TypeVar("R")


def _patient(
    method: Callable[Concatenate["Storage", P], R],
) -> Callable[Concatenate["Storage", P], R]:
    """A question to the store that may be asked again."""

    @functools.wraps(method)
    def call(storage: "Storage", /, *args: P.args, **kwargs: P.kwargs) -> R:
        return storage.ask(method, storage, *args, **kwargs)

    return call


@dataclass
class StorageUsage:
    """Requests and bytes since the storage was opened."""

    puts: int = 0
    gets: int = 0
    bytes_written: int = 0
    bytes_read: int = 0


class Storage:
    """Objects below one root.

    Args:
        root: a path or an fsspec URL, e.g. ``s3://bucket/prefix``. Credentials come from the
            environment or the cloud's own chain; an S3 endpoint from ``AWS_ENDPOINT_URL``.
        waits: a store that does not answer is waited for (:mod:`afcore.outage`), as is right once
            something was computed; then every method raises a :class:`StoreLostError`, and one
            that forbids what it allowed before a :class:`StoreRefusedError`.

    Raises:
        StoreError: for a root that cannot be, see :func:`.root.open_root`.
    """

    def __init__(self, root: str, *, waits: bool = False) -> None:
        self.root = root.rstrip("/")
        self._waits = waits
        self.usage = StorageUsage()
        self._counting = threading.Lock()
        self._backend = open_root(root, self._part)
        protocol = self._backend.file_system.protocol
        self.protocol: str = protocol if isinstance(protocol, str) else protocol[0]

    @classmethod
    def of_run(cls, root: str) -> "Storage":
        """One for work that takes long: tried at once, and waited for once it is known to work.

        Raises:
            StoreError: when it cannot be used.
        """
        cls(root).check()
        return cls(root, waits=True)

    def __repr__(self) -> str:
        return f"Storage({self.root!r})"

    def ask(self, question: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call, again and again while the store does not answer, if this storage waits.

        Raises:
            StoreLostError: when it was waited for in vain.
            StoreRefusedError: when it does not let us, as it did before.
        """
        if not self._waits:
            return question(*args, **kwargs)
        outage = outage_of(f"the store {self.root}")
        try:
            return outage.wait_out(StoreUnreachableError, question, *args, **kwargs)
        except (StoreLostError, StoreRefusedError):
            raise
        except StoreUnreachableError as error:
            why = in_one_line(list(causes(error))[-1], 200)
            raise StoreLostError(
                f"the store {self.root} does not answer, for {outage.seconds:.0f} s now ({why}). "
                "See that it runs; what is committed stands, and the same command goes on from "
                "there."
            ) from error
        except StoreError as error:
            raise StoreRefusedError(
                f"{error} It was possible when the run began; what is committed stands, and the "
                "same command goes on from there once it is possible again."
            ) from error

    def uri(self, key: str) -> str:
        """Full URI of ``key``."""
        return f"{self.root}/{key}"

    @_patient
    def put(self, key: str, data: bytes | memoryview, seen: Seen | None = None) -> None:
        """Write an object whole, replacing what was there.

        Args:
            key: of the object.
            data: its bytes.
            seen: gets the bytes piece by piece, each while it is in the processor's cache.

        Raises:
            StorageFullError: when there is no space left.
            StoreError: when the store cannot be written.
        """
        with self._explained("write", key, len(data)):
            self._backend.put(self._full(key), data, seen or unseen)
        self.count(puts=1, written=len(data))

    @_patient
    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none; among concurrent writers exactly one wins.

        Returns:
            Whether this call wrote it.
        """
        with self._explained("write", key, len(data)):
            try:
                self._backend.create(self._full(key), data)
            except FileExistsError:
                return False
        self.count(puts=1, written=len(data))
        return True

    @_patient
    def get(self, key: str) -> bytes:
        """Read an object whole.

        Raises:
            KeyError: when there is none.
            StoreError: when the store cannot be read.
        """
        with self._explained("read", key):
            try:
                data = self._backend.get(self._full(key))
            except FileNotFoundError:
                raise KeyError(key) from None
        self.count(gets=1, read=len(data))
        return data

    @_patient
    def mapped(self, key: str) -> memoryview:
        """Read an object in place: as a file of this machine that is mapped into memory.

        One of elsewhere is first copied to a file, which is gone when nobody has its memory. What
        is written to the memory changes no object.

        Raises:
            KeyError: when there is none.
            StorageFullError: when there is no space left for the copy.
            StoreError: when the store cannot be read.
        """
        with self._explained("read", key):
            try:
                data = self._backend.mapped(self._full(key))
            except FileNotFoundError:
                raise KeyError(key) from None
        self.count(gets=1, read=len(data))
        return data

    def get_into(self, key: str, out: memoryview, seen: Seen | None = None) -> int:
        """Read an object of known size into memory that is there.

        Args:
            key: of the object.
            out: writable bytes, as many as the object is thought to have.
            seen: gets the bytes piece by piece, each while it is in the processor's cache.

        Returns:
            How many bytes were read: fewer of an object that is smaller.

        Raises:
            KeyError: when there is none.
            StoreError: when the store cannot be read.
        """
        with self._explained("read", key):
            try:
                count = self._backend.get_into(self._full(key), out, seen or unseen)
            except FileNotFoundError:
                raise KeyError(key) from None
        self.count(gets=1, read=count)
        return count

    def exists(self, key: str) -> bool:
        """Whether there is an object of this name.

        Raises:
            StoreError: when the store cannot be asked; that is not a no.
        """
        return self.size(key) is not None

    @_patient
    def size(self, key: str) -> int | None:
        """Bytes of the object of this name; None: there is none.

        Raises:
            StoreError: when the store cannot be asked.
        """
        with self._explained("read", key):
            found = self._backend.stored(self._full(key))
        return None if found is None else found.num_bytes

    def list(self, prefix: str) -> dict[str, int]:
        """Keys below the folder ``prefix`` with their sizes in bytes, sorted; drafts left out."""
        return {key: stored.num_bytes for key, stored in self.listing(prefix).items()}

    def listing(self, prefix: str) -> dict[str, Stored]:
        """As :meth:`list`, with the times too; one question to the store, not one an object."""
        return dict(self.walk(prefix))

    def walk(self, prefix: str) -> Iterator[Found]:
        """As :meth:`listing`, one after the other: a million take no more memory than a page.

        Raises:
            StoreError: when the store cannot be listed.
        """
        folder = self._full(prefix).rstrip("/")
        with self._explained("list", prefix):
            for path, stored in self._backend.walk(folder):
                yield path[len(self._backend.root) + 1 :], stored

    def folders(self, prefix: str) -> tuple[str, ...]:
        """Names of the folders right below the folder ``prefix``, sorted; nothing in them is read.

        Raises:
            StoreError: when the store cannot be listed.
        """
        folder = self._full(prefix).rstrip("/")
        with self._explained("list", prefix):
            return tuple(sorted(self._backend.folders(folder)))

    def drafts(self) -> dict[str, Stored]:
        """The drafts that killed writers left on local disk, or that live ones use."""
        return self._backend.drafts()

    @_patient
    def delete(self, key: str) -> None:
        """Delete an object; none there is no error."""
        with self._explained("delete", key), contextlib.suppress(FileNotFoundError):
            self._backend.delete(self._full(key))

    @_patient
    def copy(self, source: str, target: str) -> None:
        """Give an object another name as well, where it lies: the bytes are not read here.

        What had that name is replaced.

        On this machine both names are of one file, which nobody changes: a write replaces a name.

        Raises:
            KeyError: when there is none.
        """
        with self._explained("write", target):
            try:
                self._backend.copy(self._full(source), self._full(target))
            except FileNotFoundError:
                raise KeyError(source) from None
        self.count(puts=1)

    def delete_folder(self, prefix: str) -> None:
        """Delete everything below ``prefix``; none there is no error.

        Raises:
            StoreError: as :meth:`delete_all`.
        """
        with self._explained("delete", prefix), contextlib.suppress(FileNotFoundError):
            self._backend.delete_folder(self._full(prefix))

    def delete_all(self, keys: Iterable[str]) -> None:
        """Delete objects by as few requests as the store has; none of a name is no error.

        Raises:
            StoreError: when the store refuses one; others may be gone by then.
        """
        with self._explained("delete", ""):
            self._backend.delete_all(self._full(key) for key in keys)

    def count(self, puts: int = 0, gets: int = 0, written: int = 0, read: int = 0) -> None:
        """Add requests and bytes; several threads may read."""
        with self._counting:
            self.usage.puts += puts
            self.usage.gets += gets
            self.usage.bytes_written += written
            self.usage.bytes_read += read

    def check(self) -> None:
        """Write, read and delete a small object; and make sure that only one writer creates one.

        Raises:
            StoreError: when any of it fails, with what to do about it.
        """
        key, data = f".probe-{uuid.uuid4().hex}", b"autofreeze"
        self.put_new(key, data)
        if self.get(key) != data:
            raise StoreError(f"store {self.root}: read back other bytes than were written")
        created_twice = self.put_new(key, b"once more")
        self.delete(key)
        if created_twice:
            raise StoreError(
                f"store {self.root}: an object that is there was created once more, so two "
                "processes could both take a run for theirs. Its server does not keep to "
                "If-None-Match; take another server, or a newer release of it."
            )

    def check_there(self) -> None:
        """For who only looks: list the root, which the other methods take for empty if missing.

        Raises:
            StoreError: when there is none, or it cannot be listed.
        """
        with self._explained("list", ""):
            self._backend.file_system.ls(self._backend.root, detail=False)

    @_patient
    def time(self) -> float:
        """What the clock says that gives objects their times; seconds since the epoch.

        Raises:
            StorageFullError: when there is no space for an empty object.
            StoreError: when the store cannot be written.
        """
        key = f".clock-{uuid.uuid4().hex}"
        self.put(key, b"")
        try:
            with self._explained("read", key):
                if (found := self._backend.stored(self._full(key))) is None:
                    raise FileNotFoundError(key)
                return found.modified
        finally:
            self.delete(key)

    def _full(self, key: str) -> str:
        """Below the root, whatever a record that somebody changed says."""
        if key.startswith("/") or ".." in key.split("/"):
            raise IntegrityError(
                f"{self.root}: {key!r} names something outside of the store, so nothing was done. "
                "Only a record that was tampered with says so: see who may write to the store"
            )
        return f"{self._backend.root}/{key}"

    @_patient
    def _part(self, verb: str, request: Callable[[], R]) -> R:
        """One request of many that a method sends: each is waited for by itself."""
        with self._explained(verb, ""):
            return request()

    @contextlib.contextmanager
    def _explained(self, verb: str, key: str, num_bytes: int | None = None) -> Iterator[None]:
        """Turn what the file systems raise into one message of ours."""
        try:
            yield
        except (KeyError, AutoFreezeError):
            raise
        except Exception as error:
            size = "" if num_bytes is None else f" ({num_bytes / 1e6:.1f} MB)"
            disk = self._backend.disk(self._full(key))
            raise_explained(error, f"cannot {verb} {self.uri(key)}{size}", disk)
