"""What `corral doctor` looks at on a node of many: PostgreSQL, blobs, certificates, its address."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from corral.cli.finding import Finding
from corral.config import Config
from corral.kernel.errors import CorralError, InvalidRequest
from corral.kernel.limits import (
    BLOB_REQUEST_SECONDS,
    CERTIFICATE_WARNING_DAYS,
    CLOCK_SKEW_SECONDS,
    POSTGRES_WRITERS,
    STORE_READERS,
)

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["examine_cluster"]

_LISTENERS = 2  # of the bus: one listens, one tells
_NODES_EXPECTED = 3  # what a server should have room for


def examine_cluster(config: Config) -> Iterator[Finding]:
    """Nothing for a node on SQLite."""
    if not config.is_postgres:
        return
    checks: tuple[Callable[[Config], Finding], ...] = (_postgres, _blobs)
    if config.cluster_cert is not None:
        checks = (*checks, _certificate)
    if config.hands_listen is not None:
        checks = (*checks, _hands_address)
    for check in checks:
        yield check(config)


def _postgres(config: Config) -> Finding:
    """It answers, its version, schema, clock, and how many connections it has for us."""
    from sqlalchemy import URL
    from sqlalchemy.exc import DBAPIError

    from corral.store.engine import postgres_engine, target
    from corral.store.upgrade import schema, server_facts, weakness

    assert config.database_url is not None
    url = target(config.database_url.reveal())
    assert isinstance(url, URL)
    where = f"{url.database} at {url.host or url.query.get('host', 'localhost')}"
    engine = postgres_engine(url, writes=False, connections=1)
    try:
        found, weak = schema(engine), weakness(engine)
        before = time.time()
        facts = server_facts(engine)
        skew = abs(facts.now - (before + time.time()) / 2)
    except (DBAPIError, CorralError) as error:
        said = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        return Finding(
            name="postgres",
            state="failed",
            detail=f"{where}: {said.strip().partition(chr(10))[0]}",
            remedy="check CORRAL_DATABASE_URL, and that this machine may connect",
        )
    finally:
        engine.dispose()
    ours = POSTGRES_WRITERS + STORE_READERS + _LISTENERS
    detail = (
        f"{where}, {found.server}, schema {found.revision or 'none yet'}, clocks {skew * 1000:.0f} ms"
        f" apart, {facts.connections_max} connections of which a node takes up to {ours}"
    )
    if (remedy := found.remedy or weak) is not None:
        return Finding(name="postgres", state="failed", detail=detail, remedy=remedy)
    if skew > CLOCK_SKEW_SECONDS:
        remedy = "certificates and logs go by this machine's clock: set both by NTP"
        return Finding(name="postgres", state="warning", detail=detail, remedy=remedy)
    if facts.connections_max < _NODES_EXPECTED * ours:
        remedy = f"raise max_connections: {ours} for each node"
        return Finding(name="postgres", state="warning", detail=detail, remedy=remedy)
    return Finding(name="postgres", state="ok", detail=detail)


def _blobs(config: Config) -> Finding:
    """Writes one, reads it and deletes it; of a node's own directory, only whether it is one."""
    from corral.store.blobs import open_blobs

    if config.blob_url is None:
        return Finding(
            name="blobs",
            state="warning",
            detail=f"in {config.data_dir / 'blobs'}, on this machine alone",
            remedy="before a second node starts, set CORRAL_BLOB_URL=s3://bucket/prefix, or file:///directory",
        )

    async def tried() -> None:
        blobs = await open_blobs(config)
        try:
            async with asyncio.timeout(BLOB_REQUEST_SECONDS):
                await blobs.probe()
        finally:
            await blobs.aclose()

    started = time.perf_counter()
    try:
        asyncio.run(tried())
    except (CorralError, OSError) as error:
        reason = str(error) or f"no answer within {BLOB_REQUEST_SECONDS:.0f} s"
        remedy = "check CORRAL_BLOB_URL and CORRAL_S3_*; it must let us write, read and delete"
        return Finding(name="blobs", state="failed", detail=f"{config.blob_url}: {reason}", remedy=remedy)
    took = (time.perf_counter() - started) * 1000
    return Finding(
        name="blobs", state="ok", detail=f"{config.blob_url}: written, read and deleted in {took:.0f} ms"
    )


def _certificate(config: Config) -> Finding:
    """It belongs to its key and the authority, is valid now, and names the address that others use."""
    from corral.hands.tls import ClusterTls, client_context

    ca, cert, key = config.cluster_ca, config.cluster_cert, config.cluster_key
    assert ca
    assert cert
    assert key
    address = config.hands_address or config.hands_listen
    host = address.rpartition(":")[0].strip("[]") if address else None
    anew = f"make a new one with `corral certs DIR --host {host or 'NAME'}`"

    def failed(detail: str, remedy: str) -> Finding:
        return Finding(name="certificate", state="failed", detail=f"{cert}: {detail}", remedy=remedy)

    try:
        client_context(ClusterTls(ca=ca, cert=cert, key=key))
        from cryptography import x509

        ours = x509.load_pem_x509_certificate(cert.read_bytes())
        authority = x509.load_pem_x509_certificate(ca.read_bytes())
    except (InvalidRequest, ImportError, ValueError, OSError) as error:
        return failed(str(error), "CORRAL_CLUSTER_CA, _CERT and _KEY are the files of one `corral certs`")
    try:
        ours.verify_directly_issued_by(authority)
    except Exception as error:
        return failed(
            f"not issued by the authority in {ca} ({type(error).__name__})",
            "give all nodes the ca.pem with which their certificates were made",
        )
    now, names = datetime.now(UTC), _names(ours)
    detail = f"{cert} names {', '.join(names)}, valid until {ours.not_valid_after_utc:%Y-%m-%d}"
    for each, file in ((ours, cert), (authority, ca)):
        if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
            return failed(
                f"{file} is valid from {each.not_valid_before_utc:%Y-%m-%d} to"
                f" {each.not_valid_after_utc:%Y-%m-%d}",
                f"{anew}, and check this machine's clock",
            )
    if host is not None and host not in names:
        return failed(
            f"it names {', '.join(names) or 'nothing'}, and not {host}, where others reach us", anew
        )
    if ours.not_valid_after_utc - now < timedelta(days=CERTIFICATE_WARNING_DAYS):
        return Finding(name="certificate", state="warning", detail=detail, remedy=anew)
    return Finding(name="certificate", state="ok", detail=detail)


def _names(certificate: "x509.Certificate") -> list[str]:
    from cryptography import x509

    with contextlib.suppress(x509.ExtensionNotFound):
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [str(name.value) for name in found]
    return []


def _hands_address(config: Config) -> Finding:
    """Whether the address that others go to means anything, as seen from here."""
    address = config.hands_address or config.hands_listen
    assert address
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding(
            name="hands address",
            state="failed",
            detail=f"{address}: {error.strerror or error}",
            remedy="set CORRAL_HANDS_ADDRESS to host:port as other nodes reach this one",
        )
    places = sorted({str(each[4][0]) for each in found})
    return Finding(name="hands address", state="ok", detail=f"{address} is {', '.join(places)}")
