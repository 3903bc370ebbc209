"""What WORKERS means on this machine: how many processes, what each gets, and warnings."""

from collections.abc import Iterator

from rustygate.config import Settings
from rustygate.system.cpus import available_cpus


def worker_count(settings: Settings) -> int:
    """How many processes serve clients."""
    return available_cpus() if settings.workers is None else settings.workers


def describe_workers(settings: Settings) -> Iterator[str]:
    """What each process gets of the limits that are divided, if there are several."""
    count = worker_count(settings)
    if count > 1:
        each = settings.of_worker(count)
        yield (
            f"{count} processes, each with up to {each.connection_limit} "
            f"connections and {_megabytes(each.queue_bytes)} MB of queued bodies"
        )


def workers_warnings(settings: Settings) -> Iterator[str]:
    """One line for each warning."""
    count, cpus = worker_count(settings), available_cpus()
    if count > cpus:
        processors = "1 processor" if cpus == 1 else f"{cpus} processors"
        yield (
            f"WORKERS={count}, but only {processors} can run them: more processes only take more "
            "memory; WORKERS=auto starts one for each processor"
        )
    if count > 1 and settings.queue_bytes / count < settings.max_buffered_body:
        yield (
            f"QUEUE_BYTES is divided among {count} processes, so each has room for "
            f"{_megabytes(settings.queue_bytes / count)} MB, less than a body of "
            f"MAX_BUFFERED_BODY={settings.max_buffered_body}; raise "
            "QUEUE_BYTES"
        )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:.3g}"
