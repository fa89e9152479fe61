"""A real Kafka that asks for TLS, certificates and SASL, with certificates of its own authority."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from app.broker import EmbeddedBroker
from app.kafka_config import HOST
from app.kafka_jars import java_command, java_environment

PASSWORD = "sesame-7f3a91-password"
"""The password of `alice` (PLAIN) and `bob` (SCRAM): nothing else looks like it."""
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
LISTENERS = {
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SSL": "SSL",
    "MUTUAL": "SSL",
    "SASL_SSL": "SASL_SSL",
}
"""Security protocol by listener. `MUTUAL` and `SASL_SSL` ask for a certificate of the client."""
ASKING = ("MUTUAL", "SASL_SSL")
_PLAIN_LOGIN = (
    f'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="{PASSWORD}";'
)
_SCRAM_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass(frozen=True)
class Certificates:
    """PEM files, each with key and certificate: of the broker, of a client, of a stranger."""

    folder: Path

    def write(self) -> None:
        """Make two authorities; the second one is nobody's."""
        ours, foreign = trustme.CA(), trustme.CA()
        for name, authority in (("authority", ours), ("other-authority", foreign)):
            authority.cert_pem.write_to_path(self.file(name))
        _write(self.file("broker"), ours.issue_cert("localhost"))
        client = ours.issue_cert("client.example")
        _write(self.file("client"), client)
        _write(self.file("client-locked"), client, BestAvailableEncryption(b"passphrase"))
        _write(self.file("stranger"), foreign.issue_cert("client.example"))

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.pem"


@dataclass(frozen=True)
class SecuredKafka:
    """The running broker; `port` by listener."""

    broker: EmbeddedBroker
    certificates: Certificates
    ports: dict[str, int]

    def address(self, listener: str, host: str = "localhost") -> str:
        """Address of a listener, by the name in the broker's certificate."""
        return f"kafka://{host}:{self.ports[listener]}"

    def settings(self, listener: str, mechanism: str | None = None) -> dict[str, Any]:
        """Settings with which a client is let in at a listener."""
        protocol = LISTENERS[listener]
        values: dict[str, Any] = {
            "broker_url": self.address(listener),
            "security_protocol": protocol,
        }
        if protocol.endswith("SSL"):
            values["ssl_cafile"] = self.certificates.file("authority")
        if listener in ASKING:
            values["ssl_certfile"] = self.certificates.file("client")
        if mechanism is not None:
            values["sasl_mechanism"] = mechanism
            values["sasl_username"] = "alice" if mechanism == "PLAIN" else "bob"
            values["sasl_password"] = PASSWORD
        return values


@contextmanager
def secured_kafka(folder: Path, jars: list[Path]) -> Iterator[SecuredKafka]:
    """Kafka with a listener of each kind beside the plain one of the embedded broker."""
    certificates = Certificates(folder)
    certificates.write()
    ports = _free_ports(list(LISTENERS))
    broker = EmbeddedBroker(folder / "broker", properties=_properties(ports, certificates))
    broker.start(port=0)
    try:
        for mechanism in SCRAM:
            _add_user("bob", mechanism, broker.address, jars)
        yield SecuredKafka(broker, certificates, ports)
    finally:
        broker.stop()


def _properties(ports: dict[str, int], certificates: Certificates) -> dict[str, str]:
    protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", **LISTENERS}
    properties = {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items()),
        # The name that the certificate is for, as a client follows what is advertised.
        "advertised.listeners": ",".join(
            f"{name}://localhost:{port}" for name, port in ports.items()
        ),
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocol}" for name, protocol in protocols.items()
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.file("broker")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.file("authority")),
        "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM)),
    }
    for name in ASKING:
        properties[f"listener.name.{name.lower()}.ssl.client.auth"] = "required"
    for name in ("sasl_plaintext", "sasl_ssl"):
        properties[f"listener.name.{name}.plain.sasl.jaas.config"] = _PLAIN_LOGIN
        for mechanism in SCRAM:
            login = f"listener.name.{name}.{mechanism.lower()}.sasl.jaas.config"
            properties[login] = _SCRAM_LOGIN
    return properties


def _add_user(name: str, mechanism: str, address: str, jars: list[Path]) -> None:
    """What `kafka-configs.sh` does; one mechanism a call is all that it takes."""
    subprocess.run(
        java_command(
            jars,
            "kafka.admin.ConfigCommand",
            *("--bootstrap-server", address, "--alter", "--entity-type", "users"),
            *("--entity-name", name, "--add-config", f"{mechanism}=[password={PASSWORD}]"),
            options=("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
        ),
        env=java_environment(),
        capture_output=True,
        check=True,
        timeout=60,
    )


def _write(
    file: Path, issued: trustme.LeafCert, encryption: KeySerializationEncryption | None = None
) -> None:
    """Write key and certificates; Java reads keys as PKCS #8 alone."""
    key = load_pem_private_key(issued.private_key_pem.bytes(), password=None)
    encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    chain = b"".join(certificate.bytes() for certificate in issued.cert_chain_pems)
    file.write_bytes(encoded + chain)


def _free_ports(names: list[str]) -> dict[str, int]:
    """A port for each, all held until every one is chosen."""
    sockets = {name: socket.create_server((HOST, 0)) for name in names}
    ports = {name: held.getsockname()[1] for name, held in sockets.items()}
    for held in sockets.values():
        held.close()
    return ports
