"""bertstream's Faust app. `app.app` is made from the settings when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.worker import BertstreamApp

    app: BertstreamApp


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import asyncio

    import uvloop

    from app.settings import load_settings
    from app.worker import create_app

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    globals()["app"] = application = create_app(load_settings())
    return application
