"""The consoles that commands print to."""

from rich.console import Console

__all__ = ["console", "errors", "say", "wide"]

console = Console()
errors = Console(stderr=True, soft_wrap=True)


def say(text: str, to: Console = console) -> None:
    """Print it as it is: nothing in it is markup, and lines are as long as they are."""
    to.print(text, markup=False, soft_wrap=True)


def wide() -> Console:
    """For tables, which are better scrolled than cut."""
    return Console(width=max(console.width, 210))
