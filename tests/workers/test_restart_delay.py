"""How long to wait before a worker is replaced."""

import pytest

from rustygate.workers.restart_delay import HEALTHY_S, RestartDelay


def test_delay_doubles_up_to_half_a_minute_while_workers_end_soon() -> None:
    delay = RestartDelay()
    delays = [delay.next_s(HEALTHY_S - 0.01) for _ in range(11)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])


def test_worker_that_was_healthy_is_replaced_at_once() -> None:
    delay = RestartDelay()
    for _ in range(5):
        delay.next_s(0)
    assert delay.next_s(HEALTHY_S) == 0.1
    assert delay.next_s(0) == 0.2
