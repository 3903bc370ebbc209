"""The repository's own files: scripts, hooks, locks, image, service."""

import json
import os
import re
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rustygate.config import Settings

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file() and not p.suffix)
LOCKS = sorted(ROOT.glob("requirements*.txt"))


def requirements(option: str) -> list[Requirement]:
    """The requirements under `section.option` in setup.cfg."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    section, _, name = option.rpartition(".")
    return [Requirement(line) for line in config[section][name].split("\n") if line]


def locked(lock: str) -> dict[str, str]:
    """The version of each package in a lock; each entry must have a hash."""
    entry = (
        r"^([\w.-]+)==(\S+)(?: ; [^\\\n]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\\n|\n))+"
    )
    text = (ROOT / lock).read_text()
    found = re.findall(entry, text, re.M)
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in found}
    assert len(versions) == len(re.findall(r"^[^\s#]", text, re.M)), "an entry without hashes"
    return versions


def dockerfile() -> list[list[str]]:
    """The stages of the Dockerfile, each a list of instructions with continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    return [stage.splitlines() for stage in re.split(r"^(?=FROM )", text, flags=re.M)[1:]]


def test_scripts_readme_lists_every_script() -> None:
    listed = re.findall(r"^- `([\w.-]+)/?`:", (ROOT / "scripts/README.md").read_text(), re.M)
    present = {path.name for path in (ROOT / "scripts").iterdir()}
    assert sorted(listed) == sorted(present - {"README.md", "__pycache__"})


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda path: path.name)
def test_script_is_executable_and_stops_at_the_first_failure(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert re.match(r"#!(/bin/sh|/usr/bin/env -S bash) -e\n# ", script.read_text())


def test_hooks_run_the_tools_of_the_check_script() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    script = (ROOT / "scripts/check").read_text()
    tools = re.findall(r"^(?:ruff|mypy)\b.*$", script, re.M)
    assert [hook["entry"] for hook in hooks] == [f".venv/bin/{tool}" for tool in tools]
    assert {hook["language"] for hook in hooks} == {"system"}


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
def test_lock_satisfies_setup_cfg(option: str, lock: str) -> None:
    versions = locked(lock)
    for requirement in requirements(option):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_oldest_aiohttp_allowed_is_the_tested_one() -> None:
    """With 3.14.0 to 3.14.3, the gate started but answered no request."""
    [aiohttp] = [r for r in requirements("options.install_requires") if r.name == "aiohttp"]
    assert f">={locked('requirements.txt')['aiohttp']}" in str(aiohttp.specifier).split(",")


@pytest.mark.parametrize(
    "option",
    ["options.install_requires", "options.extras_require.otel"],
)
def test_architecture_says_what_each_dependency_is_for(option: str) -> None:
    _, _, table = (ROOT / "ARCHITECTURE.md").read_text().partition("| package | for |")
    rows = [row.strip("|").split("|") for row in table.splitlines() if row.startswith("| ")]
    purposes = {
        name.strip(): purpose.strip() for names, purpose in rows for name in names.split(",")
    }
    for requirement in requirements(option):
        assert purposes[requirement.name]


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-build.txt"])
def test_development_lock_includes_other_locks(lock: str) -> None:
    assert locked(lock).items() <= locked("requirements-dev.txt").items()


def test_wheel_has_every_file_of_the_package() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    included = {
        path
        for package, patterns in config["options.package_data"].items()
        for pattern in re.split(r"[\s,]+", patterns)
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = (path for path in (ROOT / "rustygate").rglob("*") if path.is_file())
    # Bytecode that a process is writing has a temporary name.
    sources = (path for path in files if path.parent.name != "__pycache__")
    assert {path for path in sources if path.suffix != ".py"} == included


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_names_its_command_but_no_index_or_path(lock: Path) -> None:
    text = lock.read_text()
    assert "#    scripts/lock\n" in text
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ ", text)


@pytest.mark.parametrize("stage", dockerfile()[1:], ids=lambda stage: stage[0].split()[-1])
def test_image_runs_as_a_numbered_user(stage: list[str]) -> None:
    """With a number, an orchestrator can tell without reading the image that it is not root."""
    [user] = [line for line in stage if line.startswith("USER ")]
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", user)


def test_signals_reach_the_daemon_in_the_container() -> None:
    """The exec form: a shell would not pass SIGTERM on."""
    instructions = dict(line.split(" ", 1) for line in dockerfile()[-1] if line)
    assert json.loads(instructions["ENTRYPOINT"]) == ["rustygate"]
    assert json.loads(instructions["CMD"]) == ["serve"]


def test_image_compiles_the_modules_that_each_command_imports() -> None:
    [compiled] = [line for line in dockerfile()[-1] if line.startswith("RUN ")]
    modules = re.search(r'"import (.*)"', compiled)
    assert modules
    for module in modules[1].split(", "):
        import_module(module)


def test_image_installs_only_locked_packages() -> None:
    installs = [
        command
        for line in (line for stage in dockerfile() for line in stage if line.startswith("RUN "))
        for command in line.split("&&")
        if " pip " in f" {command}" and (" install " in command or " wheel " in command)
    ]
    assert len(installs) == 5
    assert all("--require-hashes" in command or "--no-index" in command for command in installs)


def test_service_writes_no_core_dump() -> None:
    assert "\nLimitCORE=0\n" in (ROOT / "scripts/rustygate.service").read_text()


def test_service_keeps_its_data_for_itself() -> None:
    text = (ROOT / "scripts/rustygate.service").read_text()
    assert "\nStateDirectory=rustygate\nStateDirectoryMode=0700\n" in text


def test_service_stops_by_a_signal_to_the_supervisor() -> None:
    """Its workers would otherwise drain alone, and be replaced."""
    text = (ROOT / "scripts/rustygate.service").read_text()
    assert "\nKillMode=mixed\n" in text
    assert "\nNotifyAccess=main\n" in text


def test_service_waits_until_the_gate_has_drained() -> None:
    text = (ROOT / "scripts/rustygate.service").read_text()
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert int(seconds) > Settings(openai_api_key="sk-test").drain_timeout
