"""The application with other settings than the process's."""

import os

from fastapi import FastAPI

from handler.app import create_app
from handler.settings import read_settings


def make_app(**changes: object) -> FastAPI:
    """The application of this process's environment with some settings changed."""
    return create_app(read_settings(os.environ).model_copy(update=changes))
