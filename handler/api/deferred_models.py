"""Import FastAPI's models of OpenAPI documents without their validators, which pydantic builds at their first use.

Only `/openapi.json` needs them, and building them takes 39 ms of a cold start. pydantic documentation, "Configuration",
`defer_build`. This module is imported before any other module that imports FastAPI.
"""

from pydantic import BaseModel

BaseModel.model_config["defer_build"] = True  # the models that are defined until it is removed inherit it
import fastapi.openapi.models  # noqa: E402, F401 - the models of this import are deferred

del BaseModel.model_config["defer_build"]
