"""The consoles that commands print to."""

from rich.console import Console

__all__ = ["console", "errors", "wide"]

console = Console()
errors = Console(stderr=True, soft_wrap=True)


def wide() -> Console:
    """For tables, which are better scrolled than cut."""
    return Console(width=max(console.width, 210))
