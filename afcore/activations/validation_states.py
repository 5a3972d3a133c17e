"""What frozen blocks put out for the batches of an evaluation, held for the next one.

A split that is evaluated after every epoch comes in the same batches every time, and its prefix
does not change. In memory alone, exactly as computed: whoever holds nothing runs the prefix, as
every evaluation from tokens does.
"""

from afcore.model.forwards import Hidden

__all__ = ["ValidationStates"]


class ValidationStates:
    """Hidden states of batches at one boundary."""

    def __init__(self) -> None:
        self._name: tuple[object, ...] | None = None
        self._room_bytes = 0
        self._batches: dict[int, Hidden] = {}

    def open(self, name: tuple[object, ...], room_bytes: int) -> None:
        """Go on with what is held under this name, else with nothing.

        Args:
            name: everything that decides the numbers.
            room_bytes: most bytes to hold.
        """
        if name != self._name:
            self._name, self._batches = name, {}
        self._room_bytes = room_bytes - self.num_bytes

    @property
    def num_bytes(self) -> int:
        """Held now."""
        return sum(_num_bytes(hidden) for hidden in self._batches.values())

    def get(self, number: int) -> Hidden | None:
        """Those of a batch, or None when it is not held."""
        return self._batches.get(number)

    def put(self, number: int, hidden: Hidden) -> None:
        """Hold a batch that is not held yet, if there is room."""
        size = _num_bytes(hidden)
        if size <= self._room_bytes:
            self._batches[number] = hidden
            self._room_bytes -= size


def _num_bytes(hidden: Hidden) -> int:
    return sum(values.nbytes for values in hidden.values())
