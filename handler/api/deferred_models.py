"""FastAPI's models of OpenAPI documents, imported without their validators, which pydantic builds at their first use.

No request needs them but the one for `/openapi.json`, and to build them takes 39 ms of a cold start. pydantic
documentation, "Configuration", `defer_build`. Imported before any other module that imports FastAPI.
"""

from pydantic import BaseModel

BaseModel.model_config["defer_build"] = True  # inherited by the models that are defined until it goes
import fastapi.openapi.models  # noqa: E402, F401 - between the two lines is what this module is for

del BaseModel.model_config["defer_build"]
