"""What a published model says, in its ``config.json``, of how it was trained and tested."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["MODEL_MARK", "ModelSettings"]

MODEL_MARK = "autofreeze"
"""Key of the settings in a model's ``config.json``."""


class ModelSettings(BaseModel):
    """The settings of the test, so that a prediction is made as it was.

    The defaults are for models that others trained.

    Attributes:
        run_id: of the training.
        data: digest of the rows and their tokens.
        task: as :mod:`afcore.tasks.known_tasks` parses it; None: as the configuration tells.
        columns: names of those that were given, by the keys of ``data``.
        encoding: of CSV and JSON files.
        precision: it was tested with.
        pooled_last_block: the last block was computed at the position that the head reads; None:
            the model is computed as it comes.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    run_id: str | None = None
    data: str | None = None
    task: dict[str, Any] | None = None
    columns: dict[str, str | None] = {}
    encoding: str = "utf-8"
    precision: Literal["fp32", "bf16"] = "fp32"
    pooled_last_block: bool | None = None
