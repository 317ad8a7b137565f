"""The one port's TLS."""

import ssl
from pathlib import Path

import pytest

from keyshred.config import WebhookSettings
from keyshred.errors import ConfigInvalid
from keyshred.webhook.tls import server_context
from tests.cluster.pki import Authority


def settings(certificate: Path, key: Path, client_ca: str = "") -> WebhookSettings:
    return WebhookSettings(token_uri="pkcs11:token=t", tls_cert=str(certificate), tls_key=str(key), client_ca=client_ca)


def test_tls_1_2_and_later(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server", "server", hosts=["127.0.0.1"])
    context = server_context(settings(pair.certificate, pair.key))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE


def test_a_client_certificate_is_asked_for_where_its_authority_is_known(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server", "server", hosts=["127.0.0.1"])
    context = server_context(settings(pair.certificate, pair.key, str(authority.certificate)))
    assert context.verify_mode == ssl.CERT_OPTIONAL


def test_files_that_cannot_serve(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("server", "server", hosts=["127.0.0.1"])
    with pytest.raises(ConfigInvalid, match=r"--tls-key .*absent: No such file"):
        server_context(settings(pair.certificate, tmp_path / "absent"))
    with pytest.raises(ConfigInvalid, match="belong together"):
        server_context(settings(pair.certificate, Authority(tmp_path / "other").key("key")))
    with pytest.raises(ConfigInvalid, match="--client-ca"):
        server_context(settings(pair.certificate, pair.key, str(tmp_path / "absent")))
