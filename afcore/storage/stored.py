"""What a listing tells of objects."""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Found", "Stored", "StoredSum"]


@dataclass(frozen=True)
class Stored:
    """An object as a listing tells it: bytes, and when it was written, seconds since the epoch."""

    num_bytes: int
    modified: float


@dataclass
class StoredSum:
    """What some objects add up to: bytes, and when one was last written (since the epoch)."""

    num_bytes: int = 0
    modified: float = 0.0

    def add(self, stored: Stored) -> None:
        """One more."""
        self.num_bytes += stored.num_bytes
        self.modified = max(self.modified, stored.modified)

    def idle(self, now: float) -> float:
        """Seconds since something was last written."""
        return now - self.modified


Found: TypeAlias = tuple[str, Stored]
"""The path of an object, and what is known of it."""
