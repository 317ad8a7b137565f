"""TLS of the webhook's one port."""

import ssl
from pathlib import Path

from aiohttp import web

from keyshred.config import WebhookSettings
from keyshred.errors import ConfigInvalid, Refused


def server_context(settings: WebhookSettings) -> ssl.SSLContext:
    """TLS 1.2 and later. A client certificate is asked for where its CA is known, and then checked if one is sent.

    Raises ConfigInvalid naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for flag, file in (
        ("--tls-cert", settings.tls_cert),
        ("--tls-key", settings.tls_key),
        ("--client-ca", settings.client_ca),
    ):
        _check_readable(flag, file)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except ssl.SSLError as error:
        raise ConfigInvalid(
            f"--tls-cert {settings.tls_cert}, --tls-key {settings.tls_key}: no certificate and key that belong together"
        ) from error
    if settings.client_ca:
        try:
            context.load_verify_locations(settings.client_ca)
        except ssl.SSLError as error:
            raise ConfigInvalid(f"--client-ca {settings.client_ca}: no certificate in PEM form") from error
        # Optional at the handshake: workloads that unseal come to the same port with a token and no certificate.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _check_readable(flag: str, file: str) -> None:
    if not file:
        return
    try:
        Path(file).read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{flag} {file}: {error.strerror}") from error


def check_client(request: web.Request, settings: WebhookSettings) -> None:
    """Raises Refused unless an admission call shows the API server's certificate, where one is asked for."""
    if not settings.client_ca:
        return
    certificate = request.get_extra_info("peercert")
    if not certificate:
        raise Refused("admission needs the API server's client certificate")
    names = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    if settings.client_name and settings.client_name not in names:
        raise Refused("the client certificate is not the API server's")
