"""What a fold is called; which rows it has is :mod:`afcore.data.split`'s."""

from dataclasses import dataclass

__all__ = ["Fold"]


@dataclass(frozen=True)
class Fold:
    """One part of the training rows, which validates while the others train.

    Attributes:
        number: from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Fold":
        """From ``2/5``.

        Raises:
            ValueError: for anything else, and a fold that there is not.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal()):
            raise ValueError(f"a fold is written as 2/5; got {text!r}")
        found = cls(int(number), int(of))
        if found.of < 2 or not 1 <= found.number <= found.of:
            raise ValueError(f"there is no fold {found.number} of {found.of}")
        return found
