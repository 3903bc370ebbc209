"""What WORKERS means on this machine: how many processes, and warnings."""

from collections.abc import Iterator

from rustygate.config import Settings
from rustygate.core.plural import counted
from rustygate.system.cpus import available_cpus


def worker_count(settings: Settings) -> int:
    """How many processes serve clients."""
    return available_cpus() if settings.workers is None else settings.workers


def describe_workers(settings: Settings) -> Iterator[str]:
    """How many processes there are, if there are several."""
    count = worker_count(settings)
    if count > 1:
        yield f"{count} processes, which share all limits"


def workers_warnings(settings: Settings) -> Iterator[str]:
    """One line for each warning."""
    count, cpus = worker_count(settings), available_cpus()
    if count > cpus:
        yield (
            f"WORKERS={count}, but only {counted(cpus, 'processor')} can run them: more processes "
            "only take more memory; WORKERS=auto starts one for each processor"
        )
