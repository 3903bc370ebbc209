"""The certificate that all workers serve HTTPS with."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rustygate.config import Settings
from rustygate.system.memory_file import new_memory_file
from rustygate.system.tls import ServerCertificate
from rustygate.workers.remote_gate import Tell


class SharedCertificate(ServerCertificate):
    """Read here first, and then by each worker from copies in memory. So a worker that starts
    later gets it even if the files can no longer be used.

    Attributes:
        descriptors: of the copies; workers inherit them.
    """

    def __init__(self, cert_file: str, key_file: str, tell_all: Tell) -> None:
        super().__init__(cert_file, key_file)
        self._tell_all = tell_all
        self._paths = (Path(cert_file), Path(key_file))
        self.descriptors: Sequence[int] = [new_memory_file("rustygate-tls") for _ in self._paths]
        self._copy()

    def reload(self) -> str | None:
        problem = super().reload()
        if problem is None:
            self._copy()
            self._tell_all("certificate")
        return problem

    def _copy(self) -> None:
        for path, descriptor in zip(self._paths, self.descriptors, strict=True):
            content = path.read_bytes()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, content, 0)

    def of_worker(self, settings: Settings) -> Settings:
        """The settings of a worker, which reads the copies."""
        if sys.platform != "linux":
            # What one process reads there is no longer to be read by others.
            return settings
        cert_file, key_file = (f"/dev/fd/{descriptor}" for descriptor in self.descriptors)
        return replace(settings, tls_cert_file=cert_file, tls_key_file=key_file)

    def close(self) -> None:
        """Forget the copies."""
        for descriptor in self.descriptors:
            os.close(descriptor)
