"""A model as MLflow keeps it, with the run that made it."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from afcore.model.truncating_tokenizer import truncating
from afcore.tasks.task import Task
from afcore.tracking.tracking_store import transfer_settings

__all__ = ["MODEL_TAG", "fetch_folder", "load_model", "save_model"]

MODEL_TAG = "autofreeze.model_uri"
"""Of a run: where its model is."""
_TEXT_PIPELINES = ("text-classification", "token-classification")


def save_model(run_id: str, model: Any, processor: Any, task: Task, pairs: bool) -> str:
    """Save a model so that ``mlflow.transformers.load_model`` gives a pipeline.

    It cuts texts at the tokenizer's length, as a pipeline and as ``pyfunc``, which is how
    MLflow serves it. Where Transformers has no pipeline for the task, the folder of the model
    is saved alone.

    Args:
        run_id: that the model belongs to, of the store that MLflow is set to.
        model: on the CPU.
        processor: of it: its tokenizer.
        task: of it.
        pairs: it was trained on pairs of texts.

    Returns:
        The model's URI.
    """
    import mlflow.transformers
    import torch
    import transformers

    base = Path(model.name_or_path)
    if model.name_or_path and base.exists():
        # Else MLflow looks for a card and a licence under that name on the hub.
        model.name_or_path = str(base.absolute())
    with transfer_settings(), mlflow.start_run(run_id=run_id):
        if not task.has_pipeline():
            return _save_folder(run_id, model, processor)
        if task.pipeline_options.get("truncation"):
            processor = truncating(processor)
        logged = mlflow.transformers.log_model(
            transformers_model={"model": model, task.processor: processor},
            name="model",
            task=task.pipeline_tag,
            model_config=dict(task.pipeline_options),
            # It is answered once, which gives the signature.
            input_example=_input_example(task, pairs),
            # Given, because finding them out would load the model in another process.
            pip_requirements=[
                f"torch=={torch.__version__.partition('+')[0]}",
                f"transformers=={transformers.__version__}",
            ],
        )
        return str(logged.model_uri)


def _save_folder(run_id: str, model: Any, processor: Any) -> str:
    """Laid as the flavor lays it, so that one reader finds both."""
    import mlflow

    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        mlflow.log_artifacts(folder, "model/model", run_id=run_id)
    return f"runs:/{run_id}/model"


def load_model(uri: str, auto_class: str) -> Any:
    """The model that :func:`save_model` saved.

    Args:
        uri: that it gave, of the store that MLflow is set to.
        auto_class: of ``transformers``, which knows its head.

    Raises:
        Exception: of any artifact store, when it cannot be had.
    """
    import mlflow
    import transformers

    with transfer_settings(), tempfile.TemporaryDirectory(prefix="autofreeze-") as folder:
        saved = mlflow.artifacts.download_artifacts(uri, dst_path=folder)
        return getattr(transformers, auto_class).from_pretrained(
            Path(saved) / "model", use_safetensors=True, trust_remote_code=False
        )


def fetch_folder(run_id: str, folder: Path, name: str) -> bool:
    """Copy artifacts of this name to a folder that is not there yet; False where there are none.

    Raises:
        Exception: of any artifact store, when they cannot be had.
    """
    import mlflow

    if not mlflow.artifacts.list_artifacts(run_id=run_id, artifact_path=name):
        return False
    with transfer_settings(), tempfile.TemporaryDirectory(prefix="autofreeze-") as above:
        found = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=name, dst_path=above
        )
        shutil.copytree(found, folder)
    return True


def _input_example(task: Task, pairs: bool) -> Any:
    """What MLflow's server may be sent; None where that is not a text, or answers take long."""
    if task.pipeline_tag not in _TEXT_PIPELINES:
        return None
    text = "This is an example."
    return [{"text": text, "text_pair": "This is another one."}] if pairs else [text]
