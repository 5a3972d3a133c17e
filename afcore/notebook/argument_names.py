"""Messages of what the command line shares with a call, in the words of the call."""

import contextlib
import re
from collections.abc import Iterator

from afcore.errors import AutoFreezeError

__all__ = ["as_arguments"]

_OPTION = re.compile(r"--(output|fresh)\b")


@contextlib.contextmanager
def as_arguments(**names: str) -> Iterator[None]:
    """Errors that are raised in it name arguments instead of options.

    Args:
        names: of the arguments, by the option; where an option is not among them, its own.
    """
    try:
        yield
    except AutoFreezeError as error:
        error.args = tuple(
            _OPTION.sub(lambda found: names.get(found[1], found[1]), said)
            if isinstance(said, str)
            else said
            for said in error.args
        )
        raise
