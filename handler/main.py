"""The Lambda entry point: `handler.main.handler`."""

import gc

# Imports create no garbage, and collecting takes a tenth of a cold start. Enabled again at the end of this file.
gc.disable()

import logging
import os
from typing import Any

from handler.settings import read_settings

settings = read_settings(os.environ)  # first, so that a problem stops the start before the imports take time

from handler.api import deferred_models  # noqa: F401, I001 - before the imports below import FastAPI

from handler.adapter import request_log
from handler.adapter.adapter import Adapter
from handler.adapter.redaction import redact_log_records
from handler.app import create_app

redact_log_records()
logging.getLogger().setLevel(settings.log_level)
if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    request_log.sinks.append(request_log.cloudwatch_sink(settings.service_name))

app = create_app(settings)
adapter = Adapter(app)


def handler(event: Any, context: Any) -> Any:
    """Respond to an HTTP request of an event source in `handler/adapter/`.

    Returns the response in the event source's format, and raises nothing for an HTTP request. A request that cannot be
    parsed gets a 400, before CORS and authorization. A scheduled event and `{"warmup": true}`, which keep an
    environment warm, get None. Every other event raises NotHttpEvent, so that its sender keeps it, retries it or moves
    it to a dead-letter queue. Events that are not HTTP requests never open a database connection.
    """
    return adapter.handle(event, context)


adapter.prime()
gc.freeze()  # later collections ignore the objects that exist now
gc.enable()
