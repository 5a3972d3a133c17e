"""What all sections of the configuration share: how they are read, and addresses in them."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from afcore.number_texts import numbers_as_texts
from afcore.yaml_files import SECRET_MESSAGE, USERINFO

__all__ = ["FileOrUrl", "Section", "Uri", "absolute", "absolute_sqlite"]


def _without_secret(uri: str) -> str:
    """Configurations are logged, so no URI in them may carry a password."""
    if USERINFO.search(uri):
        raise ValueError(SECRET_MESSAGE)
    return uri


def absolute(uri: str) -> str:
    """A path without a scheme becomes absolute, so that a change of folder changes nothing."""
    return uri if "://" in uri else str(Path(_expanded(uri)).absolute())


def _expanded(path: str) -> str:
    """A path in somebody's home, ``~/...``, with the home's name."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{path.split('/')[0]!r} is nobody's home on this machine") from error


def absolute_sqlite(uri: str) -> str:
    """The same of the file of a SQLite database."""
    prefix = "sqlite:///"
    return prefix + absolute(uri.removeprefix(prefix)) if uri.startswith(prefix) else uri


Uri = Annotated[str, AfterValidator(_without_secret)]
FileOrUrl = Annotated[Uri, AfterValidator(_expanded), Field(min_length=1)]


class Section(BaseModel):
    """A mapping of the configuration: a key that it does not know is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        json_schema_extra=numbers_as_texts,
    )
