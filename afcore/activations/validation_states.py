"""What frozen blocks put out for the batches of an evaluation, held for the next one.

A split that is evaluated after every epoch comes in the same batches every time, and its prefix
does not change. In memory alone, exactly as computed: whoever holds nothing runs the prefix, as
every evaluation from tokens does. When more blocks have frozen, what is held goes on from where it
is.
"""

from collections.abc import Callable

from afcore.model.forwards import Hidden

__all__ = ["ValidationStates"]


class ValidationStates:
    """Hidden states of batches, at a boundary or at one that it grew from."""

    def __init__(self) -> None:
        self._boundary = 0
        self._name: object = None
        self._room_bytes = 0
        self._batches: dict[int, tuple[int, Hidden]] = {}

    def open(self, boundary: int, name_at: Callable[[int], object], room_bytes: int) -> None:
        """Go on with what is held of the same frozen blocks, or of the lowest of them.

        Args:
            boundary: at which batches are asked for.
            name_at: everything that decides the numbers at a boundary.
            room_bytes: most bytes to hold.
        """
        if self._boundary > boundary or self._name != name_at(self._boundary):
            self._batches = {}
        self._boundary, self._name = boundary, name_at(boundary)
        self._room_bytes = room_bytes - self.num_bytes

    @property
    def num_bytes(self) -> int:
        """Held now."""
        return sum(_num_bytes(hidden) for _, hidden in self._batches.values())

    def get(self, number: int) -> tuple[int, Hidden | None]:
        """Those of a batch, with their boundary; 0 and None when it is not held."""
        return self._batches.get(number, (0, None))

    def put(self, number: int, hidden: Hidden) -> None:
        """Hold a batch at the boundary that is open, if there is room."""
        held = self.get(number)[1]
        more = _num_bytes(hidden) - (0 if held is None else _num_bytes(held))
        if more <= self._room_bytes:
            self._batches[number] = self._boundary, hidden
            self._room_bytes -= more


def _num_bytes(hidden: Hidden) -> int:
    return sum(values.nbytes for values in hidden.values())
