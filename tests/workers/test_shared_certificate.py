"""The certificate that the supervisor reads and its workers use."""

import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rustygate.config import load
from rustygate.system import tls
from rustygate.system.tls import ServerCertificate, UnusableFiles, server_context
from rustygate.workers import shared_certificate
from rustygate.workers.shared_certificate import CertificateCopy, Pair, SharedCertificate
from tests.support.certificates import Authority


class Shared:
    """A certificate, its files, and what workers are told."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self.told: list[tuple[object, ...]] = []
        self.cert, self.key = map(Path, authority.issue("127.0.0.1").values())
        self.certificate = SharedCertificate(str(self.cert), str(self.key), self._tell)

    def _tell(self, *message: object) -> None:
        self.told.append(message)

    def issue(self) -> None:
        """Replace both files."""
        self._authority.issue("127.0.0.1")

    @property
    def contents(self) -> Pair:
        return self.cert.read_bytes(), self.key.read_bytes()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    made = Shared(Authority(tmp_path))
    yield made
    made.certificate.close()


def test_workers_are_told_what_was_read(shared: Shared) -> None:
    first = shared.contents
    assert (shared.certificate.pair, shared.told) == (first, [])
    shared.issue()
    assert shared.certificate.reload() is None
    assert shared.certificate.pair == shared.contents != first
    assert shared.told == [("certificate", shared.contents)]


def test_workers_are_told_the_pair_that_was_found_usable(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files change as soon as it was."""
    shared.issue()
    usable = shared.contents

    def check(*paths: str) -> ssl.SSLContext:
        context = server_context(*paths)
        shared.cert.write_bytes(b"garbage")
        shared.key.unlink()
        return context

    monkeypatch.setattr(tls, "server_context", check)
    assert shared.certificate.reload() is None
    assert shared.certificate.pair == usable
    assert shared.told == [("certificate", usable)]


def test_pair_that_changes_between_its_files_is_not_used(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_pem, before = tls.read_pem, shared.contents

    def read(path: str, label: str) -> bytes:
        content = read_pem(path, label)
        shared.issue()
        return content

    monkeypatch.setattr(shared_certificate, "read_pem", read)
    problem = shared.certificate.reload()
    assert problem == f"{shared.cert} and {shared.key}: key values mismatch"
    assert (shared.certificate.pair, shared.told) == (before, [])
    descriptors = os.listdir("/dev/fd")
    with pytest.raises(UnusableFiles) as raised:
        SharedCertificate(str(shared.cert), str(shared.key), shared.told.append)
    assert raised.value.strerror == problem
    assert os.listdir("/dev/fd") == descriptors
    monkeypatch.setattr(shared_certificate, "read_pem", read_pem)
    assert shared.certificate.reload() is None
    assert shared.certificate.pair == shared.contents


def damage(shared: Shared, how: str) -> None:
    match how:
        case "other key":
            certificate = shared.cert.read_bytes()
            shared.issue()
            shared.cert.write_bytes(certificate)
        case "no file":
            shared.key.unlink()
        case "directory":
            shared.key.unlink()
            shared.key.mkdir()
        case "garbage":
            shared.cert.write_bytes(b"garbage")
        case "bad key":
            label = "PRIVATE KEY-----"
            shared.key.write_text(f"-----BEGIN {label}\n-----END {label}\n")


@pytest.mark.parametrize("how", ["other key", "no file", "directory", "garbage", "bad key"])
def test_bad_files_change_nothing_and_are_described_as_without_workers(
    shared: Shared, how: str
) -> None:
    single = ServerCertificate(str(shared.cert), str(shared.key))
    before = shared.contents
    damage(shared, how)
    problem = single.reload()
    assert problem is not None
    assert str(shared.key if how in ("no file", "directory") else shared.cert) in problem
    assert shared.certificate.reload() == problem
    assert (shared.certificate.pair, shared.told) == (before, [])


def test_no_copy_is_written_where_it_would_be_a_file(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(name)

    monkeypatch.setattr(shared_certificate, "new_memory_file", refuse)
    monkeypatch.setattr(sys, "platform", "darwin")
    shared = Shared(authority)
    shared.issue()
    assert shared.certificate.reload() is None
    assert (shared.certificate.pair, shared.told) == (None, [("certificate", None)])
    shared.key.write_bytes(b"garbage")
    assert shared.certificate.reload() == f"{shared.key}: no private key in it"
    assert shared.told == [("certificate", None)]
    shared.certificate.close()


def test_copy_takes_the_place_of_the_files_in_settings() -> None:
    copy = CertificateCopy()
    settings = copy.in_settings(load({"OPENAI_API_KEY": "sk-x", "RATE_LIMIT": "7"}))
    assert (settings.tls_cert_file, settings.tls_key_file) == copy.paths
    assert settings.rate_limit == 7
    copy.close()


def test_copy_has_the_pair_that_was_written_last(authority: Authority) -> None:
    copy = CertificateCopy()
    cert, key = (Path(path).read_bytes() for path in authority.issue("127.0.0.1").values())
    for pair in (cert + b"\n" * 5000, key + b"\n" * 5000), (cert, key):
        copy.write(pair)
        assert tuple(Path(path).read_bytes() for path in copy.paths) == pair
        server_context(*copy.paths)
    descriptors = [int(Path(path).name) for path in copy.paths]
    copy.close()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
