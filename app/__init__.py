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
    import sys

    import uvloop

    from app.errors import SettingsError
    from app.printable import one_line
    from app.settings import load_settings

    try:
        settings = load_settings()
    except SettingsError as error:
        # Of an error here Faust's command line shows a traceback, and it exits with 1.
        print(f"bertstream: {one_line(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    from app.worker import create_app

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    globals()["app"] = application = create_app(settings)
    return application
