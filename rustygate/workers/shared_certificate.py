"""The certificate that all workers serve HTTPS with.

The supervisor reads both files and sends their contents to its workers, so that a worker that
starts later gets the certificate in force, even if the files have become unusable.
"""

import os
import sys
from dataclasses import replace

from rustygate.config import Settings
from rustygate.system.memory_file import new_memory_file
from rustygate.system.tls import ServerCertificate, UnusableFiles, read_pem
from rustygate.workers.remote_gate import Tell

# The contents of a certificate's file and of its key's.
Pair = tuple[bytes, bytes]


class CertificateCopy:
    """A certificate and its key as files in memory, because OpenSSL is given files only. One
    process alone writes and reads them, so that it never reads half of a pair."""

    def __init__(self) -> None:
        self._certificate, self._key = (new_memory_file("rustygate-tls") for _ in range(2))

    @property
    def paths(self) -> tuple[str, str]:
        return f"/dev/fd/{self._certificate}", f"/dev/fd/{self._key}"

    def write(self, pair: Pair) -> None:
        for descriptor, content in zip((self._certificate, self._key), pair, strict=True):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)

    def in_settings(self, settings: Settings) -> Settings:
        """The settings with the copies instead of the files."""
        cert_file, key_file = self.paths
        return replace(settings, tls_cert_file=cert_file, tls_key_file=key_file)

    def close(self) -> None:
        """Forget the copies."""
        os.close(self._certificate)
        os.close(self._key)


class SharedCertificate(ServerCertificate):
    """The certificate in the supervisor, which tells all workers when it has changed.

    Attributes:
        pair: what is in force. None where the system has no files in memory (not on Linux): each
            process then reads the files itself.
    """

    def __init__(self, cert_file: str, key_file: str, tell_all: Tell) -> None:
        super().__init__(cert_file, key_file)
        self._tell_all = tell_all
        self.pair: Pair | None = None
        self._copy = CertificateCopy() if sys.platform == "linux" else None
        problem = self._read()
        if problem is not None:
            self.close()
            raise UnusableFiles(problem)

    def reload(self) -> str | None:
        problem = self._read()
        if problem is None:
            self._tell_all("certificate", self.pair)
        return problem

    def _read(self) -> str | None:
        """Read the files, and use what was read; returns why that is not possible."""
        if self._copy is None:
            return super().reload()
        contents = []
        for path, label in self._labels():
            try:
                contents.append(read_pem(path, label))
            except OSError as error:
                return f"{path}: {error.strerror}"
        certificate, key = contents
        self._copy.write((certificate, key))
        problem = self._use(*self._copy.paths)
        if problem is None:
            self.pair = certificate, key
        return problem

    def close(self) -> None:
        """Forget the copies."""
        if self._copy is not None:
            self._copy.close()
