"""The champion's files: to be scored, and to begin a training with."""

import json
import shutil
from pathlib import Path

from afcore.config import Config
from afcore.digest import recipe_digest
from afcore.model_settings import MODEL_MARK
from afcore.tracking.registry import ModelRegistry, ModelVersion

__all__ = ["champion_folder", "forget_others", "start_folder"]


def champion_folder(config: Config, registry: ModelRegistry, version: ModelVersion) -> Path:
    """A folder with weights and tokenizer, got from MLflow where it is not here yet.

    Raises:
        UserError: when it cannot be had.
    """
    return registry.download(version, _folder(config, version))


def start_folder(config: Config, registry: ModelRegistry, version: ModelVersion) -> Path:
    """The same, to train from: without what its configuration says of its own training."""
    whole = champion_folder(config, registry, version)
    start = whole.with_name(_start_name(whole))
    if not start.exists():
        draft = start.with_name(f"{start.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(whole, draft)
        settings = json.loads((draft / "config.json").read_text(encoding="utf-8"))
        settings.pop(MODEL_MARK, None)
        (draft / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        draft.rename(start)
    return start


def forget_others(config: Config, version: ModelVersion) -> None:
    """Delete the files of versions that were champion before ``version``."""
    kept = _folder(config, version)
    name = kept.name.partition("-")[0]
    for folder in kept.parent.glob(f"{name}-*"):
        if folder.name not in (kept.name, _start_name(kept)):
            shutil.rmtree(folder, ignore_errors=True)


def _folder(config: Config, version: ModelVersion) -> Path:
    """Beside the store's files, or in the working folder where the store is elsewhere.

    The run is in its name: in a registry that was made anew, version 1 is another model.
    """
    root = Path(".autofreeze/store" if "://" in config.store else config.store)
    name = recipe_digest([config.tracking.uri, version.name])[:16]
    named = f"{name}-v{version.version}-{version.mlflow_run_id[:8]}"
    return (root / "retrain" / "champions" / named).absolute()


def _start_name(whole: Path) -> str:
    return f"{whole.name}-start"
