"""A certificate authority for one test cluster, and the certificates it issues."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME: Final = datetime.timedelta(days=365)
_BACKDATE: Final = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority that lives in `directory`; made at first use, then the same for good."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        files = Pair(directory / "ca.crt", directory / "ca.key")
        if not files.certificate.exists():
            self._create(files)
        self.certificate = files.certificate
        self._certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def issue(
        self, name: str, common_name: str, *, organizations: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> Pair:
        """NAME.crt and NAME.key for a server at `hosts` (DNS names, IP addresses) or for a client.

        To Kubernetes the common name is the user, the organizations are the groups. Made once per name.
        """
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        if pair.certificate.exists():
            return pair
        key = _write_key(pair.key)
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(x509.Name(subject), self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        # The certificate comes last: its presence says that the pair is whole.
        _write_certificate(pair.certificate, builder.sign(self._key, hashes.SHA256()))
        return pair

    def key(self, name: str) -> Path:
        """NAME.key, a private key without a certificate. Made once per name."""
        path = self._directory / f"{name}.key"
        if not path.exists():
            _write_key(path)
        return path

    @staticmethod
    def _create(files: Pair) -> None:
        key = _write_key(files.key)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-cluster-ca")])
        usage = x509.KeyUsage(
            key_cert_sign=True,
            crl_sign=True,
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        _write_certificate(files.certificate, builder.sign(key, hashes.SHA256()))


def _write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A new P-256 key, also written to `path` as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Not PKCS #8: kube-apiserver does not take that for --service-account-key-file.
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(pem)
    return key


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _BACKDATE,
        not_valid_after=now + _LIFETIME,
    )


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
