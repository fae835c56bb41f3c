"""A broker that wants to know who asks: TLS with certificates made here, SASL PLAIN and SCRAM, and an authorizer."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from esper.dev import broker
from esper.dev.broker import BrokerNode
from esper.dev.jars import fetched
from esper.dev.ports import free_ports
from esper.dev.processes import Process, stop

PASSWORD = "correct horse"
USERS = ("trainer", "worker", "sink", "operator", "arbiter", "stranger")


@dataclass(frozen=True, slots=True)
class Secured:
    """Where it listens: ``open`` is for the administrator, who may do anything; the others want a password or a
    certificate. Of the PEM files in ``folder``, ``ca.pem`` signed all, ``other-ca.pem`` none."""

    open: str
    scram: str
    tls: str
    mutual: str
    folder: Path
    process: Process

    def close(self) -> None:
        stop([self.process], patience=20)


def secured_broker(folder: Path) -> Secured:
    """Start one in ``folder``."""
    _certificates(folder)
    ports = free_ports(5)
    names = ("PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL", "SSL")
    listeners = [f"{name}://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)]
    node = BrokerNode(1, ports[0], ports[4])
    plain = " ".join(f'user_{user}="{PASSWORD}"' for user in USERS)
    jars = fetched()
    login = "org.apache.kafka.common.security"
    settings = {
        "listeners": ",".join([*listeners, f"CONTROLLER://127.0.0.1:{ports[4]}"]),
        "advertised.listeners": ",".join(listeners),
        "listener.security.protocol.map": ",".join([*(f"{name}:{name}" for name in names), "CONTROLLER:PLAINTEXT"]),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{login}.plain.PlainLoginModule required {plain};",
        "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "broker.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.ssl.ssl.client.auth": "required",
    }
    broker.prepare(jars, node, [node], broker.new_cluster_id(), folder, settings)
    process = broker.start(jars, folder, heap="384m")
    deadline = time.monotonic() + 90
    while not broker.known_brokers([node.address]):
        assert time.monotonic() < deadline, (folder / "broker.log").read_text()
        time.sleep(0.1)
    _users(node.address)
    addresses = [f"127.0.0.1:{port}" for port in ports[:4]]
    return Secured(*addresses, folder=folder, process=process)


def _users(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    wanted = [UserScramCredentialUpsertion(user, how, PASSWORD.encode()) for user in USERS]
    for future in admin.alter_user_scram_credentials(wanted).values():
        future.result(30)


def _certificates(folder: Path) -> None:
    """``ca.pem``, ``broker.pem`` (key and certificate), ``client.pem`` and ``client.key``, ``other-ca.pem``."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other-ca"):
        new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.pem")
    (folder / "names.txt").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("broker", "client"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr")
        sign = ("x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl(*sign, "-extfile", "names.txt", "-out", f"{name}.pem")
    both = (folder / "broker.key").read_text() + (folder / "broker.pem").read_text()
    (folder / "broker.pem").write_text(both)
