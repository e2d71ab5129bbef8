"""Keys of OVN: signatures and names of certificates."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from kvmcompose.core.ovn_hosts import Identity
from kvmcompose.providers.ovn import keys
from kvmcompose.providers.ovn.keys import ends_soon, expiry, make_authority, make_identity


def test_an_identity_is_signed_by_its_authority_in_the_name_of_its_chassis() -> None:
    authority = make_authority("lab")
    one, two = make_identity("one", authority), make_identity("two", authority)
    certificate = x509.load_pem_x509_certificate(one.certificate.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "one"  # the role of the listener compares it with what is written
    assert one.ca == authority.certificate
    assert one.key != two.key != authority.key
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_an_identity_ends_with_its_authority_and_is_renewed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    long = make_authority("lab")
    assert not ends_soon(long.expires)
    monkeypatch.setattr(keys, "_LIFE", dt.timedelta(days=80))
    short = make_authority("lab")
    monkeypatch.undo()
    identity = make_identity("one", short)
    assert identity.expires == short.expires == expiry(identity.certificate) < long.expires
    assert ends_soon(identity.expires)
    assert not ends_soon("")  # what was made before ends were noted
    assert not ends_soon("a day")


def test_keys_that_are_no_authority_are_refused() -> None:
    authority = make_authority("lab")
    with pytest.raises(ValueError, match=r"PEM|load"):
        make_identity("one", Identity(key="no key", certificate=authority.certificate, ca=""))
