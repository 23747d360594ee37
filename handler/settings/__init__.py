"""Reads the settings of the service from environment variables when it starts, and names every problem at once.

`models.py` has the settings. docs/adr/0005 explains why pydantic-settings is not used.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import AliasChoices, AliasPath, BaseModel, ValidationError
from pydantic_core import ErrorDetails

from handler.settings import database_url
from handler.settings.models import AUTH_MODES, DatabaseSettings, Port, Settings, Text

__all__ = [
    "AUTH_MODES",
    "DatabaseSettings",
    "Port",
    "Settings",
    "SettingsError",
    "Text",
    "read_database_settings",
    "read_settings",
]

Model = TypeVar("Model", bound=BaseModel)


class SettingsError(Exception):
    """The service cannot start with these environment variables. `problems` has a line for each problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("settings: " + "; ".join(problems))
        self.problems = problems


def read_settings(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. An empty variable counts as unset.

    Raises SettingsError with every problem, each with what to write instead and without the value.
    """
    return _read(Settings, environ)


def read_database_settings(environ: Mapping[str, str]) -> DatabaseSettings:
    """The settings of the database in `environ`, for programs that need no other settings, such as migrations.

    Raises SettingsError, as `read_settings` does.
    """
    return _read(DatabaseSettings, environ)


def _read(model: type[Model], environ: Mapping[str, str]) -> Model:
    problems: list[str] = []
    values: dict[str, Any] = {name: value for name, value in environ.items() if value}
    values["DATABASE_URL"] = database_url.parse(
        values.get("DATABASE_URL", ""), problems, needs_user="DATABASE_SECRET_ARN" not in values
    )
    try:
        found = model.model_validate({**values, "database": values})
    except ValidationError as error:
        problems += map(_problem, error.errors())
    if problems:
        raise SettingsError(problems)
    return found


def _problem(error: ErrorDetails) -> str:
    """The variable, what is wrong with it, and what to write instead."""
    field = (Settings.model_fields | DatabaseSettings.model_fields)[str(error["loc"][-1])]
    text = str(error["ctx"]["error"]) if error["type"] == "value_error" else ""
    what = "is not set" if error["type"] == "missing" else "is not valid"
    return f"{_variable(field.validation_alias)} {text or f'{what}: write {field.description}'}"


def _variable(alias: str | AliasPath | AliasChoices | None) -> str:
    match alias:
        case AliasChoices():
            return " or ".join(map(_variable, alias.choices))
        case AliasPath():
            return f"{alias.path[0]}'s {alias.path[1]}"
    return str(alias)
