"""`rustygate simulate`: the simulator on its own."""

import socket

from tests.cli.processes import get
from tests.conftest import Start


def test_simulate_serves_with_the_simulators_flags(start: Start) -> None:
    simulator = start("simulate", "--port", "0", "--fault", "status=503")
    url = simulator.wait_for_line(
        simulator.stdout, r"listening on (\S+)/v1, statistics at \1/simulator/stats"
    )[1]
    assert url.startswith("http://127.0.0.1:")
    assert get(url, "/v1/models")[0] == 503
    line = simulator.wait_for_line(simulator.stdout, r"(GET .*)")[1]
    assert line.split()[:5] == ["GET", "/v1/models", "-", "503", "0+0"]
    assert get(url, "/simulator/stats")[0] == 200


def test_simulate_reports_a_port_in_use(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, stdout, stderr = start("simulate", "--port", port).ended()
    expected = f"rustygate: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    assert (code, stdout, stderr) == (1, "", expected)
