"""MLflow's model registry: versions of one model, and the alias ``champion`` on one of them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afcore.errors import UserError, in_one_line
from afcore.results.report import RunReport
from afcore.tracking.models import MODEL_TAG
from afcore.tracking.tracker import Tracker
from afcore.tracking.tracking_store import transfer_settings

__all__ = ["CHAMPION", "ModelRegistry", "ModelVersion"]

CHAMPION = "champion"


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model: its number, the MLflow run that made it, its tags."""

    name: str
    version: str
    mlflow_run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """As MLflow loads it."""
        return f"models:/{self.name}/{self.version}"


class ModelRegistry(Tracker):
    """The registry beside an experiment; see :class:`.Tracker` for what is raised."""

    def champion(self, name: str) -> ModelVersion | None:
        """The version with the alias; None when there is none."""
        with self._explained():
            try:
                found = self._client.get_model_version_by_alias(name, CHAMPION)
            except self._mlflow.exceptions.MlflowException as error:
                # No such model is one error, and no such alias another.
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        return _version(found)

    def versions(self, name: str) -> list[ModelVersion]:
        """All of a model, the newest first; none where there is no such model."""
        found: list[ModelVersion] = []
        with self._explained():
            page: Any = None
            while page is None or page.token:
                page = self._client.search_model_versions(
                    f"name = {_quoted(name)}", page_token=page.token if page is not None else None
                )
                found += map(_version, page)
        return sorted(found, key=lambda version: -int(version.version))

    def aliases(self, name: str) -> dict[str, str]:
        """The version that each alias of a model names."""
        with self._explained():
            aliases = self._client.get_registered_model(name).aliases
        return {alias: str(version) for alias, version in aliases.items()}

    def delete(self, version: ModelVersion) -> None:
        """Take it out of the registry; the files are the run's, and stay."""
        with self._explained():
            self._client.delete_model_version(version.name, version.version)

    def register(
        self, name: str, mlflow_run_id: str, tags: Mapping[str, str], description: str
    ) -> ModelVersion:
        """Register the model that a run logged; what was registered of it before is found."""
        with self._explained():
            self._mlflow.set_tracking_uri(self._uri)
            known = self._client.search_model_versions(
                f"name = {_quoted(name)} and run_id = '{mlflow_run_id}'"
            )
            if known:
                found = max(known, key=lambda version: int(version.version))
            else:
                uri = self._client.get_run(mlflow_run_id).data.tags[MODEL_TAG]
                found = self._mlflow.register_model(uri, name, await_registration_for=0)
            for key, value in tags.items():
                self._client.set_model_version_tag(name, found.version, key, value)
            self._client.update_model_version(name, found.version, description)
        return ModelVersion(name, str(found.version), mlflow_run_id, dict(tags))

    def promote(self, version: ModelVersion) -> None:
        """Give it the alias, which the version that had it loses."""
        with self._explained():
            self._client.set_registered_model_alias(version.name, CHAMPION, version.version)

    def note(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._explained():
            for key, value in tags.items():
                self._client.set_model_version_tag(version.name, version.version, key, value)

    def report(self, version: ModelVersion) -> RunReport | None:
        """Of the run that made it; None where it has none that can be read."""
        try:
            with self._explained():
                self._mlflow.set_tracking_uri(self._uri)
                text = self._mlflow.artifacts.load_text(
                    f"runs:/{version.mlflow_run_id}/report.json"
                )
                return RunReport.model_validate_json(text)
        except Exception:  # of any artifact store, or of a run that is none of ours
            return None

    def download(self, version: ModelVersion, folder: Path) -> Path:
        """Its weights, configuration and tokenizer in one folder, as ``save_pretrained`` leaves it.

        Args:
            version: to get.
            folder: to make; one that is there is taken for it.

        Raises:
            UserError: when it cannot be had.
        """
        if folder.exists():
            return folder
        draft = folder.with_name(f"{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            self._mlflow.set_tracking_uri(self._uri)
            with transfer_settings():
                saved = Path(
                    self._mlflow.artifacts.download_artifacts(version.uri, dst_path=str(draft))
                )
            parts = [saved / "model", *(saved / "components").glob("*")]
            for part in parts:
                shutil.copytree(part, draft / "whole", dirs_exist_ok=True)
            (draft / "whole").rename(folder)
        except Exception as error:  # of any artifact store
            raise UserError(
                f"{version.uri} in {self.shown_uri} cannot be read: {in_one_line(error, 300)}. "
                f"Mend it, or move the alias {CHAMPION!r} to another version in MLflow"
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder


def _quoted(name: str) -> str:
    """In a filter of MLflow's, which knows no escapes."""
    return f'"{name}"' if "'" in name else f"'{name}'"


def _version(found: Any) -> ModelVersion:
    return ModelVersion(found.name, str(found.version), str(found.run_id), dict(found.tags))
