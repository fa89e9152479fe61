"""Why no broker can be used, and what to do: Kafka's client itself only says that it failed."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from app.errors import BrokerError, BrokerRefused
from app.settings import DEFAULT_BROKER_URL, PREFIX, Settings

ASK_WITHIN_S = 2.0
"""How long one broker may take to show what is wrong."""
CLOSED = (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError)
HOSTNAME_MISMATCH, ADDRESS_MISMATCH = 62, 64
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one broker; waiting mends it only where it is no `refusal`."""

    reason: str
    advice: str = ""
    refusal: bool = False


async def diagnose(settings: Settings, options: dict[str, Any], error: Exception) -> BrokerError:
    """Ask each broker once more, and say what keeps us from it.

    Arguments:
        options: What a client connects with, `bootstrap_servers` included.
        error: What the client failed with.

    Returns:
        A BrokerRefused where a broker answers and will not have us, nor we it.
    """
    options = dict(options)
    servers: list[str] = options.pop("bootstrap_servers")
    findings = [await _examine(server, settings, options, error) for server in servers]
    brokers = ", ".join(servers)
    for server, finding in zip(servers, findings, strict=True):
        if finding.refusal:
            return BrokerRefused(
                f"the Kafka broker at {server} cannot be used ({finding.reason}): {finding.advice}"
            )
    first = findings[0]
    advice = first.advice or (
        f"check {PREFIX}BROKER_URL and the broker"
        if settings.broker_url
        else "start one (bertstream up, or bertstream broker), or name yours in "
        f"{PREFIX}BROKER_URL, such as {DEFAULT_BROKER_URL}"
    )
    return BrokerError(f"no Kafka broker at {brokers} ({first.reason}): {advice}")


def reason_of(error: BaseException) -> str:
    """One line of what went wrong, without the jargon that aiokafka puts around it."""
    cause = _innermost(error)
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, asyncio.IncompleteReadError):
        return f"what answers there is no Kafka, or not of this {PREFIX}SECURITY_PROTOCOL"
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


async def _examine(
    server: str, settings: Settings, options: dict[str, Any], error: Exception
) -> Finding:
    """Connect to one broker, and ask it something that a listener for SASL refuses to others."""
    from aiokafka.conn import create_conn
    from aiokafka.protocol.metadata import MetadataRequest

    host, _, port = server.rpartition(":")
    connected = False
    try:
        async with asyncio.timeout(ASK_WITHIN_S):
            connection = await create_conn(host.strip("[]"), int(port), **options)
            connected = True
            try:
                await connection.send(MetadataRequest([]))
            finally:
                connection.close()
    except TimeoutError:
        return Finding("it does not answer")
    except Exception as again:
        return _explain(again, settings, connected)
    return Finding(reason_of(error))


def _explain(error: Exception, settings: Settings, connected: bool) -> Finding:
    from aiokafka.errors import (
        IllegalSaslStateError,
        KafkaConnectionError,
        SaslAuthenticationFailed,
        UnsupportedSaslMechanismError,
    )

    protocol = settings.security_protocol or "PLAINTEXT"
    cause = _innermost(error)
    if isinstance(error, SaslAuthenticationFailed):
        return Finding(
            f"{settings.sasl_mechanism} authentication of {settings.sasl_username!r} failed",
            f"check {PREFIX}SASL_USERNAME, {PREFIX}SASL_PASSWORD and {PREFIX}SASL_MECHANISM",
            refusal=True,
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return Finding(
            f"it does not offer SASL {settings.sasl_mechanism}",
            f"set {PREFIX}SASL_MECHANISM to one that it offers",
            refusal=True,
        )
    if isinstance(error, IllegalSaslStateError):
        return Finding(
            "it offers no SASL on this port",
            f"set {PREFIX}SECURITY_PROTOCOL={protocol.removeprefix('SASL_')}, or name its port "
            f"for SASL in {PREFIX}BROKER_URL",
            refusal=True,
        )
    if isinstance(cause, ssl.SSLError):
        return _explain_tls(cause, settings)
    # Only closed: it may as well be about to stop, so that waiting can help.
    other = f"set {PREFIX}SECURITY_PROTOCOL as the listener of the broker has it, or check "
    if connected and isinstance(error, (KafkaConnectionError, *CLOSED)) and "SASL" not in protocol:
        return Finding(
            "it closes the connection, as a listener for SASL does", f"{other}{PREFIX}BROKER_URL"
        )
    if isinstance(cause, CLOSED) and "SSL" in protocol:
        return Finding("it does not speak TLS", f"{other}{PREFIX}BROKER_URL")
    if isinstance(cause, CLOSED):
        return Finding(
            "it does not speak Kafka without TLS, or is no Kafka", f"{other}{PREFIX}BROKER_URL"
        )
    return Finding(reason_of(error))


def _explain_tls(error: ssl.SSLError, settings: Settings) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (HOSTNAME_MISMATCH, ADDRESS_MISMATCH):
            return Finding(
                f"its certificate is of another host: {error.verify_message.rstrip('.')}",
                f"name the broker in {PREFIX}BROKER_URL as its certificate does",
                refusal=True,
            )
        return Finding(
            f"its certificate is not trusted: {error.verify_message.rstrip('.')}",
            f"set {PREFIX}SSL_CAFILE to the certificate of the authority that signed it",
            refusal=True,
        )
    name = (error.reason or "").upper()
    if "ALERT" not in name:
        return Finding(
            f"TLS fails: {reason_of(error)}",
            f"check {PREFIX}SECURITY_PROTOCOL and {PREFIX}BROKER_URL",
        )
    if settings.ssl_certfile is None:
        return Finding(
            "it asks for a certificate of this client",
            f"set {PREFIX}SSL_CERTFILE and {PREFIX}SSL_KEYFILE",
            refusal=True,
        )
    alert = name.rpartition("ALERT_")[2].replace("_", " ").lower()
    return Finding(
        f"it does not accept our certificate: {alert}",
        f"check {PREFIX}SSL_CERTFILE: the authority that signed it must be one that the broker "
        "trusts",
        refusal=True,
    )


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
