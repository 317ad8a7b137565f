"""Certificates of the webhook: an authority of keyshred's own, and what it issues (RFC 5280)."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keyshred.errors import Malformed

BACKDATE: Final = datetime.timedelta(minutes=5)
"""For clocks that are behind."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate, and its private key where we have it; both PEM."""

    certificate: bytes
    key: bytes = b""

    @property
    def parsed(self) -> x509.Certificate:
        """The first certificate. Raises Malformed."""
        return parse(self.certificate)[0]

    @property
    def id(self) -> str:
        """SHA-256 of the certificate, in hexadecimal."""
        return self.parsed.fingerprint(hashes.SHA256()).hex()

    def belongs(self) -> bool:
        """Whether the key is the certificate's."""
        try:
            key = serialization.load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError):
            return False
        return _spki(key.public_key()) == _spki(self.parsed.public_key())

    def issued(self, leaf: Self) -> bool:
        """Whether `leaf` was signed by this authority."""
        try:
            leaf.parsed.verify_directly_issued_by(self.parsed)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def parse(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text, at least one. Raises Malformed."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise Malformed("no certificate in PEM form") from None


def split(pem: bytes) -> list[bytes]:
    """Each certificate of a PEM text by itself. Raises Malformed."""
    return [certificate.public_bytes(serialization.Encoding.PEM) for certificate in parse(pem)]


def hosts(pem: bytes) -> frozenset[str]:
    """DNS names and addresses that a certificate is for. Raises Malformed."""
    try:
        names = parse(pem)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    found = names.get_values_for_type(x509.DNSName)
    return frozenset(found) | {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def make_authority(lifetime: datetime.timedelta, now: datetime.datetime) -> Pair:
    """A new authority with a P-256 key, that issues certificates for servers and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "keyshred"),
            # Two authorities of one name would look like one to clients that match by name.
            x509.NameAttribute(NameOID.COMMON_NAME, f"keyshred-webhook-ca {now:%Y-%m-%dT%H:%M:%S.%fZ}"),
        ]
    )
    builder = (
        _builder(name, name, key, now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True, digital_signature=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _signed(builder, key, key)


def issue(authority: Pair, names: Sequence[str], lifetime: datetime.timedelta, now: datetime.datetime) -> Pair:
    """A serving certificate with a fresh P-256 key, which does not outlive its authority.

    `names`: DNS names and addresses. Raises Malformed for an authority whose key is not like ours.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.parsed
    signer = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise Malformed("the authority's key is none on a curve")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keyshred-webhook")])
    end = min(now + lifetime, issuer.not_valid_after_utc)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, issuer.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(key_cert_sign=False, crl_sign=False, digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    )
    return _signed(builder, key, signer)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start - BACKDATE,
        not_valid_after=end,
    )


def _usage(*, key_cert_sign: bool, crl_sign: bool, digital_signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Pair:
    return Pair(
        builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _spki(key: object) -> bytes:
    encode = getattr(key, "public_bytes")  # noqa: B009 - of many types, all with this method
    spki: bytes = encode(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki
