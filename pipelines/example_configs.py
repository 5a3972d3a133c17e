"""``autofreeze examples``: the files that come with the package, where they can be changed."""

import shutil
from pathlib import Path

from afcore.errors import ConfigError
from afcore.prices import SHIPPED

__all__ = ["DEPLOYMENTS_FILE", "write_examples"]

_CONFIGS = Path(__file__).parent / "configs"
DEPLOYMENTS_FILE = _CONFIGS / "prefect.yaml"


def write_examples(folder: Path) -> list[Path]:
    """Copy configurations, descriptions and prices.

    Args:
        folder: to make.

    Returns:
        The files, sorted.

    Raises:
        ConfigError: when the folder is there, and is not empty, or cannot be written.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty; give a new folder")
        for source in (_CONFIGS, SHIPPED):
            shutil.copytree(source, folder, dirs_exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {folder}: {error.strerror or error}") from error
    return sorted(path for path in folder.rglob("*") if path.is_file())
