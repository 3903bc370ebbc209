"""The Compose file: valid, restricted, and true to the gate's settings."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import compose_pydantic
import pydantic
import pytest
import yaml

from rustygate.config import Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "compose.yaml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
MEMBERS = ("rustygate-1", "rustygate-2")

# What the container sets itself.
OWN = {"BIND_ADDRESS", "SSL_CERT_FILE", "SSL_CERT_DIR"}


def setting_names() -> set[str]:
    return {field.name.upper() for field in fields(Settings)}


def validate(text: str) -> None:
    """Check a file against the Compose Specification, with the defaults of its variables."""
    with_defaults = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    file = yaml.safe_load(with_defaults)
    compose_pydantic.ComposeSpecification.model_validate(
        {name: value for name, value in file.items() if not name.startswith("x-")}
    )


def test_file_is_valid() -> None:
    validate(TEXT)


def test_validator_finds_a_misspelt_field() -> None:
    with pytest.raises(pydantic.ValidationError, match="stop_grace_time"):
        validate(TEXT.replace("stop_grace_period", "stop_grace_time"))


# All services.


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_container_is_restricted(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}


@pytest.mark.parametrize("name", ["balancer", "valkey"])
def test_foreign_image_has_a_version_and_a_numbered_user(name: str) -> None:
    """Our own image sets its user itself."""
    assert re.fullmatch(r"[\w/]+:\d+\.\d+-alpine", SERVICES[name]["image"])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", SERVICES[name]["user"])


def test_log_of_every_service_is_rotated() -> None:
    for service in SERVICES.values():
        assert service["logging"]["driver"] == "json-file"
        assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_dependencies_share_a_profile() -> None:
    """Otherwise Compose cannot start a service by name, because its dependency is disabled."""
    for service in SERVICES.values():
        for dependency in service.get("depends_on", ()):
            assert set(service["profiles"]) <= set(SERVICES[dependency]["profiles"])


def test_only_gates_and_balancer_are_published_and_on_loopback() -> None:
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    host = "${BIND_ADDRESS:-127.0.0.1}:${PORT:-8080}"
    assert published == {
        "rustygate": [f"{host}:${{PORT:-8080}}"],
        "rustygate-simulated": [f"{host}:${{PORT:-8080}}"],
        "balancer": [f"{host}:8080"],
    }


@pytest.mark.parametrize("name", ["rustygate", "rustygate-simulated", "balancer", *MEMBERS])
def test_grace_period_exceeds_the_drain_timeout(name: str) -> None:
    drain = Settings(openai_api_key="sk-test").drain_timeout
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain


# The gates.


def test_gate_keeps_the_rust_programs_rate_limit() -> None:
    environment = SERVICES["rustygate"]["environment"]
    assert environment["RATE_LIMIT"] == "${RATE_LIMIT:-1}"
    assert environment["RATE_LIMIT_BURST"] == "${RATE_LIMIT_BURST:-3}"


def test_every_setting_is_passed_on() -> None:
    assert set(SERVICES["rustygate"]["environment"]) == setting_names() - OWN


def test_simulator_profile_points_the_gate_at_the_simulator() -> None:
    gate, simulator = (SERVICES[name] for name in ("rustygate-simulated", "simulator"))
    port = simulator["command"][simulator["command"].index("--port") + 1]
    assert gate["environment"]["OPENAI_BASE_URL"] == f"http://simulator:{port}/v1"
    assert gate["networks"]["default"]["aliases"] == ["rustygate"]


# The group.


def environments() -> Iterator[dict[str, Any]]:
    for name in MEMBERS:
        yield SERVICES[name]["environment"]


def test_members_have_the_settings_of_the_single_gate() -> None:
    own = {"PORT", "REDIS_URL", "GATE_GROUP"}
    single = SERVICES["rustygate"]["environment"]
    for environment in environments():
        assert environment.keys() == single.keys()
        assert {name for name in environment if environment[name] != single[name]} == own


def test_members_are_one_group_at_the_valkey_service() -> None:
    for environment in environments():
        assert environment["REDIS_URL"] == "redis://valkey:6379"
        assert environment["GATE_GROUP"] == "${GATE_GROUP:-rustygate}"


def test_only_members_reach_valkey() -> None:
    on_its_network = [
        name for name, each in SERVICES.items() if "quota" in each.get("networks", ())
    ]
    assert on_its_network == [*MEMBERS, "valkey"]
    assert SERVICES["valkey"]["networks"] == ["quota"]
    assert FILE["networks"]["quota"] == {"internal": True}


def test_valkey_refuses_writes_rather_than_lose_a_part_of_the_quota() -> None:
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[::2], command[1::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--save"] == ""
    assert options["--appendonly"] == "yes"
    # Valkey needs some more memory than its data.
    limits = (options["--maxmemory"].removesuffix("mb"), SERVICES["valkey"]["mem_limit"][:-1])
    assert int(limits[0]) * 2 <= int(limits[1])


def test_data_is_kept_in_volumes() -> None:
    data_dir = SERVICES["rustygate"]["environment"]["DATA_DIR"]
    assert SERVICES["rustygate"]["volumes"] == [f"data:{data_dir}"]
    assert SERVICES["valkey"]["volumes"] == ["valkey:/data"]
    assert FILE["volumes"].keys() == {"data", "valkey"}


def test_simulated_gate_can_write_its_data_but_does_not_keep_it() -> None:
    gate = SERVICES["rustygate-simulated"]
    assert f"{gate['environment']['DATA_DIR']}:uid=65532,gid=65532,mode=0700" in gate["tmpfs"]
    assert "/tmp" in gate["tmpfs"]


def test_image_has_the_directory_with_its_own_user() -> None:
    """A new volume gets the owner of the directory that it is mounted on."""
    data_dir = SERVICES["rustygate"]["environment"]["DATA_DIR"]
    text = (ROOT / "Dockerfile").read_text()
    stage = text.partition(" AS gate\n")[2]
    [user] = re.findall(r"^USER (\d+):\1$", stage, re.M)
    parent, _, name = data_dir.rpartition("/")
    assert f"&& install -d -m 700 /state/{name}\n" in text
    assert f"COPY --from=build --chown={user}:{user} /state {parent}\n" in stage


def test_balancer_waits_for_its_members_and_stops_before_them() -> None:
    """Compose stops a service before those it depends on."""
    started = {name: {"condition": "service_healthy"} for name in MEMBERS}
    assert SERVICES["balancer"]["depends_on"] == started
