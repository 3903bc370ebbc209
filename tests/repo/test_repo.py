"""What the repository's own files promise: scripts, locks, container, service."""

import json
import os
import re
from configparser import ConfigParser
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rustygate.config import Settings

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file() and not p.suffix)
LOCKS = sorted(ROOT.glob("requirements*.txt"))


def requirements(option: str) -> list[Requirement]:
    """The requirements that setup.cfg lists under `section.option`."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    section, _, name = option.rpartition(".")
    return [Requirement(line) for line in config[section][name].split("\n") if line]


def locked(lock: str) -> dict[str, str]:
    """Package to version, of each entry of a lock; each must carry a hash."""
    entry = r"^([\w.-]+)==(\S+) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|\n))+"
    text = (ROOT / lock).read_text()
    found = re.findall(entry, text, re.M)
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in found}
    assert len(versions) == len(re.findall(r"^[^\s#]", text, re.M)), "an entry without hashes"
    return versions


def compose() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert isinstance(services, dict)
    return services


def dockerfile() -> list[list[str]]:
    """The Dockerfile's stages, each a list of its instructions, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    return [stage.splitlines() for stage in re.split(r"^(?=FROM )", text, flags=re.M)[1:]]


def test_there_are_the_scripts_of_the_readme() -> None:
    named = re.findall(r"^- `([\w.-]+)/?`:", (ROOT / "scripts/README.md").read_text(), re.M)
    present = {path.name for path in (ROOT / "scripts").iterdir()}
    assert sorted(named) == sorted(present - {"README.md", "__pycache__"})


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_script_is_executable_and_stops_at_the_first_failure(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert re.match(r"#!(/bin/sh|/usr/bin/env -S bash) -e\n# ", script.read_text())


@pytest.mark.parametrize(
    ("option", "lock"),
    [
        ("options.install_requires", "requirements.txt"),
        ("options.install_requires", "requirements-dev.txt"),
        ("options.extras_require.test", "requirements-dev.txt"),
        ("options.extras_require.dev", "requirements-dev.txt"),
        ("options.extras_require.otel", "requirements-dev.txt"),
    ],
)
def test_lock_holds_what_setup_cfg_asks_for(option: str, lock: str) -> None:
    versions = locked(lock)
    for requirement in requirements(option):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("option", ["options.install_requires", "options.extras_require.otel"])
def test_readme_says_what_each_dependency_is_for(option: str) -> None:
    _, _, table = (ROOT / "README.md").read_text().partition("| package | for |")
    rows = [row.strip("|").split("|") for row in table.splitlines() if row.startswith("| ")]
    told = {name.strip(): purpose.strip() for names, purpose in rows for name in names.split(",")}
    for requirement in requirements(option):
        assert told[requirement.name]


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-build.txt"])
def test_development_lock_agrees_with(lock: str) -> None:
    assert locked(lock).items() <= locked("requirements-dev.txt").items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_names_its_command_and_no_place_of_its_own(lock: Path) -> None:
    text = lock.read_text()
    assert "#    scripts/lock\n" in text
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ ", text)


def test_gates_of_compose_alone_are_published_and_on_loopback() -> None:
    published = {
        name: service["ports"] for name, service in compose().items() if "ports" in service
    }
    loopback = ["${BIND_ADDRESS:-127.0.0.1}:${PORT:-8080}:${PORT:-8080}"]
    assert published == {"rustygate": loopback, "rustygate-simulated": loopback}


def test_compose_limits_as_the_rust_one_did() -> None:
    environment = compose()["rustygate"]["environment"]
    assert environment["RATE_LIMIT"] == "${RATE_LIMIT:-1}"
    assert environment["RATE_LIMIT_BURST"] == "${RATE_LIMIT_BURST:-3}"


def test_compose_passes_every_setting_on() -> None:
    """All but the address and whom to trust, which are the container's own."""
    settings = {field.name.upper() for field in fields(Settings)}
    passed = set(compose()["rustygate"]["environment"])
    assert passed == settings - {"BIND_ADDRESS", "SSL_CERT_FILE", "SSL_CERT_DIR"}


@pytest.mark.parametrize("name", ["rustygate", "rustygate-simulated", "simulator", "tests"])
def test_container_of_compose_may_do_little(name: str) -> None:
    service = compose()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}


def test_services_of_compose_that_start_together_share_a_profile() -> None:
    """A service whose dependency is in no profile of its own cannot be started by its name."""
    services = compose()
    for service in services.values():
        for dependency in service.get("depends_on", ()):
            assert set(service["profiles"]) <= set(services[dependency]["profiles"])


def test_simulator_stands_in_openais_place() -> None:
    gate, simulator = (compose()[name] for name in ("rustygate-simulated", "simulator"))
    port = simulator["command"][simulator["command"].index("--port") + 1]
    assert gate["environment"]["OPENAI_BASE_URL"] == f"http://simulator:{port}/v1"
    assert gate["networks"]["default"]["aliases"] == ["rustygate"]


@pytest.mark.parametrize("stage", dockerfile()[1:], ids=lambda stage: stage[0].split()[-1])
def test_image_runs_as_a_numbered_user(stage: list[str]) -> None:
    """A number, so that an orchestrator can tell that it is not root without reading the image."""
    [user] = [line for line in stage if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)


def test_signals_reach_the_daemon_in_its_container() -> None:
    """The exec form: a shell in between would keep SIGTERM to itself."""
    instructions = dict(line.split(" ", 1) for line in dockerfile()[-1] if line)
    assert json.loads(instructions["ENTRYPOINT"]) == ["rustygate"]
    assert json.loads(instructions["CMD"]) == ["serve"]


def test_image_installs_nothing_that_is_not_locked() -> None:
    installs = [
        command
        for line in (line for stage in dockerfile() for line in stage if line.startswith("RUN "))
        for command in line.split("&&")
        if " pip " in f" {command}" and (" install " in command or " wheel " in command)
    ]
    assert len(installs) == 5
    assert all("--require-hashes" in command or "--no-index" in command for command in installs)


def test_service_leaves_no_dump_with_the_key_in_it() -> None:
    assert "\nLimitCORE=0\n" in (ROOT / "scripts/rustygate.service").read_text()


@pytest.mark.parametrize("grace", ["compose.yaml", "scripts/rustygate.service"])
def test_drain_may_take_its_time_under(grace: str) -> None:
    text = (ROOT / grace).read_text()
    drain = Settings(openai_api_key="sk-test").drain_timeout
    seconds = re.findall(r"^ *(?:stop_grace_period: |TimeoutStopSec=)(\d+)", text, re.M)
    assert [int(second) > drain for second in seconds] == [True]
