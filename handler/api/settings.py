"""The settings of the application that handles a request."""

from fastapi import Request

from handler.settings import Settings


def get_settings(request: Request) -> Settings:
    """The settings that were passed to `create_app`, for `Depends(get_settings)` too."""
    settings: Settings = request.app.state.settings
    return settings
