"""The Lambda entry point: `handler.main.handler`."""

import gc

# Nothing that an import makes is garbage, and looking for it takes a tenth of a cold start. Until the end of this file.
gc.disable()

from handler.api import deferred_models  # noqa: F401, I001 - before FastAPI is imported by what follows

import logging
from typing import Any

from handler.adapter.adapter import Adapter
from handler.adapter.redaction import redact_log_records
from handler.app import create_app
from handler.settings import settings

redact_log_records()
logging.getLogger().setLevel(settings().log_level)

app = create_app()
adapter = Adapter(app)


def handler(event: Any, context: Any) -> Any:
    """Respond to an HTTP request of any event source in `adapter/events.py`; never raises for one.

    A request that cannot be parsed is answered 400, before CORS and authorization. A scheduled event and
    `{"warmup": true}`, which keep an environment warm, are answered with None. Any other event raises NotHttpEvent, so
    that its sender keeps it, retries it or moves it to a dead-letter queue. None of these opens a database connection.
    """
    return adapter.handle(event, context)


adapter.prime()
gc.freeze()  # no later collection looks at the objects that exist now
gc.enable()
