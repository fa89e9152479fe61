"""How every Kafka client of ours connects."""

from __future__ import annotations

import ssl
from typing import Any

from app.errors import SettingsError
from app.settings import PREFIX, Settings


def client_options(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that aiokafka's consumers, producers and admin clients share.

    Raises:
        SettingsError: a certificate or key file cannot be read.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "security_protocol": settings.security_protocol or "PLAINTEXT",
    }
    if options["security_protocol"].endswith("SSL"):
        options["ssl_context"] = _ssl_context(settings)
    if options["security_protocol"].startswith("SASL"):
        assert settings.sasl_password is not None  # Settings refuses SASL without credentials
        options |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return options


def _ssl_context(settings: Settings) -> ssl.SSLContext:
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        path = getattr(settings, name)
        if path is not None and not path.is_file():
            raise SettingsError(f"{PREFIX}{name.upper()}={path}: there is no such file")
    try:
        context = ssl.create_default_context(cafile=settings.ssl_cafile)
        if settings.ssl_certfile is not None:
            context.load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"the SSL files of the settings cannot be used: {error}") from None
    return context
