"""The sections ``tracking`` and ``retrain``: MLflow, and the champion in its registry."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from afcore.config.section import Section, Uri, absolute_sqlite

__all__ = ["RetrainConfig", "TrackingConfig"]


class TrackingConfig(Section):
    """MLflow."""

    uri: Annotated[Uri, AfterValidator(absolute_sqlite)] = Field(
        "sqlite:///.autofreeze/mlflow.db", description="tracking URI"
    )
    experiment: str = Field("autofreeze", min_length=1, description="experiment name")


class RetrainConfig(Section):
    """`autofreeze retrain`: train again when the data has changed, and keep the better model."""

    model: str | None = Field(
        None,
        min_length=1,
        pattern=r"^[^/:]+$",
        description="registered model in MLflow; default: `tracking.experiment`",
    )
    start: Literal["base", "champion"] = Field(
        "base",
        description="begin with the weights of `model.name`, or with those of the registered "
        "champion, where there is one",
    )
    margin: float = Field(
        0.01,
        ge=0,
        description="a new version becomes the champion when the lower end of the 95 % interval of "
        "its difference on the test rows is above minus this, in the unit of the score (0.01 is "
        "one point of accuracy)",
    )
    keep_versions: int | None = Field(
        None,
        ge=1,
        description="`autofreeze runs gc` deletes older versions than so many newest ones from "
        "MLflow's registry, but for those with an alias, as the champion; default: none",
    )
