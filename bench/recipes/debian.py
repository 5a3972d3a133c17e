"""Which section is a Debian package in, by its synopsis?

Read from apt's list of packages, which every Debian and every container of it has. The digest is of
Debian 12 for amd64; another release or architecture has other rows.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.recipes.rows import MissingSourceError, Row, Split, split_rows, unambiguous

__all__ = ["debian_sections", "package_fields", "synopsis_rows"]

# Sections that say how packages are used by others, or nothing, rather than what they are about.
_DROPPED = {"oldlibs", "metapackages", "debug", "localization", "tasks", "misc"}
_FEWEST_PACKAGES = 400
_TEST_SHARE = 0.08


def debian_sections(packages: Path | None) -> Split:
    """Synopses by section, for sections with enough packages; split by source package.

    Packages of one source share words. Some sections are easy: synopses of ``doc`` end in
    "documentation", those of ``libdevel`` in "development files", and names of languages are in
    many others.

    Args:
        packages: text as ``apt-cache dumpavail`` prints it; None: what it prints here.

    Raises:
        MissingSourceError: when there is no such list.
    """
    text = _available() if packages is None else packages.read_text(encoding="utf-8")
    rows = unambiguous(synopsis_rows(text.splitlines()))
    sizes = Counter(row.label for row in rows)
    return split_rows([r for r in rows if sizes[r.label] >= _FEWEST_PACKAGES], _TEST_SHARE)


def synopsis_rows(lines: Iterable[str]) -> Iterator[Row]:
    """(synopsis, section, source package) of each package; ``contrib/net`` counts as ``net``."""
    for fields in package_fields(lines):
        synopsis = " ".join((fields.get("Description") or fields.get("Description-en", "")).split())
        section = fields.get("Section", "").rpartition("/")[2]
        # A source of another version is `name (version)`.
        source = re.sub(r" \(.*", "", fields.get("Source", fields.get("Package", "")))
        if synopsis and section and source and section not in _DROPPED:
            yield Row(synopsis, section, source)


def package_fields(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Fields of each package; of a field of many lines the first."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace():
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    if fields:
        yield fields


def _available() -> str:
    try:
        listed = subprocess.run(
            ["apt-cache", "dumpavail"], capture_output=True, check=True, encoding="utf-8"
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MissingSourceError(
            "there is no apt-cache here: run it on Debian 12, or give a file that "
            "`apt-cache dumpavail` has written with --packages"
        ) from error
    if not listed.strip():
        raise MissingSourceError("apt's list of packages is empty: run apt-get update")
    return listed
