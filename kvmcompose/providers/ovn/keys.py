"""The keys of an OVN: an authority of its own, and identities that it signs.

Open vSwitch checks that a certificate is signed by the authority, and OVN, by the role of the listener, that
its common name is the chassis that it writes as (ovn-architecture(7), "RBAC"). It checks no addresses.
"""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kvmcompose.core.ovn_hosts import Identity

_DAY = dt.timedelta(days=1)
#: As of ovs-pki(8).
_LIFE = 3650 * _DAY
#: How long before its end an identity is renewed.
_RENEWED = 90 * _DAY
#: RFC 5280, appendix A.1 (ub-common-name).
_LONGEST_NAME = 64


def make_authority(name: str) -> Identity:
    """Return an authority; its certificate is its own."""
    key = _key()
    subject = _name(name)
    end = dt.datetime.now(dt.UTC) + _LIFE
    certificate = (
        _certificate(subject, subject, key.public_key(), end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    text = _pem(certificate)
    return Identity(key=_text(key), certificate=text, ca=text, expires=_day(end))


def make_identity(name: str, authority: Identity) -> Identity:
    """Return an identity that the authority signs. ``name`` is its common name. Raises ValueError."""
    ca = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not one of kvm-compose's")  # noqa: TRY004 (as the others)
    key = _key()
    end = min(dt.datetime.now(dt.UTC) + _LIFE, ca.not_valid_after_utc)  # invalid after that
    certificate = (
        _certificate(_name(name), ca.subject, key.public_key(), end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return Identity(
        key=_text(key), certificate=_pem(certificate), ca=authority.certificate, expires=_day(end)
    )


def expiry(certificate: str) -> str:
    """Return the day on which a certificate ends, by its PEM text. Raises ValueError."""
    return _day(x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc)


def ends_soon(day: str) -> bool:
    """Return whether an identity is to be renewed. False if its end is unknown, or not a date."""
    try:
        return dt.date.fromisoformat(day) - dt.datetime.now(dt.UTC).date() < _RENEWED
    except ValueError:
        return False


def _day(end: dt.datetime) -> str:
    return end.date().isoformat()


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_NAME])])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: dt.datetime
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)  # clocks of hosts differ
        .not_valid_after(end)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
