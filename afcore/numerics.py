"""Versions of the numbers that each room computes: parts of the names of what is stored.

Whoever changes numbers that a room gives for the same inputs (not how fast, nor in which words)
raises the room's version by one. What was stored under the old numbers is then not taken for the
new ones, and everything else is still found, which a digest of the sources would throw away at
every commit. ``tests/test_numerics.py`` pins some numbers of each room, and fails when they change.
"""

__all__ = ["NUMERICS", "numerics_of"]

NUMERICS = {
    "data": 1,  # reading, splitting, sampling, order, tokens
    "pictures": 1,  # how they are opened; names the data of tasks on them alone
    "model": 1,  # what blocks and heads put out
    "activations": 1,  # rounding and encoding
    "training": 1,  # optimizer, schedule, dropout, loss, scores
    "freezing": 1,  # what policies decide
    "peer": 1,  # how the Trainer is set up
}


def numerics_of(*rooms: str) -> dict[str, int]:
    """The versions of these rooms, to be put into a name."""
    return {room: NUMERICS[room] for room in rooms}
