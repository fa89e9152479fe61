"""What the settings become for aiokafka."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import BrokerError, SettingsError
from app.kafka import broker_errors, client_options
from app.settings import Settings, load_settings


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, broker_url="kafka://one;kafka://two:9093", **values)  # type: ignore[arg-type]


def test_plaintext() -> None:
    assert client_options(settings()) == {
        "bootstrap_servers": ["one:9092", "two:9093"],
        "security_protocol": "PLAINTEXT",
    }


def test_sasl_over_ssl() -> None:
    options = client_options(
        settings(
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="alice",
            sasl_password="secret",
        )
    )
    assert isinstance(options.pop("ssl_context"), ssl.SSLContext)
    assert options == {
        "bootstrap_servers": ["one:9092", "two:9093"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "alice",
        "sasl_plain_password": "secret",
    }


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"BERTSTREAM_SSL_CAFILE=.*: there is no such file"):
        client_options(settings(security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem"))


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(SettingsError, match="cannot be used"):
        client_options(settings(security_protocol="SSL", ssl_cafile=tmp_path / "ca.pem"))


def test_errors_become_one_line() -> None:
    from aiokafka.errors import KafkaTimeoutError

    with (
        pytest.raises(BrokerError, match=r"^cannot list: .*two lines$") as raised,
        broker_errors("cannot list"),
    ):
        raise KafkaTimeoutError("two\nlines")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sasl_password": "sesame"}, "SASL_PASSWORD needs SECURITY_PROTOCOL"),
        ({"ssl_cafile": "ca.pem"}, "SSL_CAFILE needs SECURITY_PROTOCOL"),
        ({"security_protocol": "SASL_SSL", "sasl_password": "sesame"}, "needs SASL_MECHANISM"),
        ({"security_protocol": "SSL", "ssl_keyfile": "key.pem"}, "SSL_KEYFILE needs SSL_CERTFILE"),
        ({"broker_url": "kafka://alice:sesame@one:9092"}, "do not belong into an address"),
        ({"sasl_password": ["sesame"]}, "BERTSTREAM_SASL_PASSWORD: "),
        ({"web_token": ["sesame"]}, "BERTSTREAM_WEB_TOKEN: "),
    ],
)
def test_settings_that_do_not_fit_show_no_secret(values: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        load_settings(_env_file=None, **values)
    assert "sesame" not in str(raised.value)
    with pytest.raises(ValidationError) as invalid:
        Settings(_env_file=None, **values)  # type: ignore[arg-type]
    assert "sesame" not in str(invalid.value)


def test_security_that_is_switched_off_may_stay_configured() -> None:
    assert client_options(settings(security_protocol="PLAINTEXT", sasl_password="x")) == {
        "bootstrap_servers": ["one:9092", "two:9093"],
        "security_protocol": "PLAINTEXT",
    }
