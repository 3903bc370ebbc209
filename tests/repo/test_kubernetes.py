"""The Kubernetes manifests: valid, restricted, and true to the gate's settings and routes."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from rustygate.app import HEALTH_PATHS, READY_PATHS
from rustygate.config import Settings, names

Manifest = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "scripts/kubernetes"
MANIFESTS: dict[str, Manifest] = {
    f"{path.stem}-{each['kind']}": each
    for path in sorted(FOLDER.iterdir())
    for each in yaml.safe_load_all(path.read_text())
}
WORKLOADS = {name: each for name, each in MANIFESTS.items() if each["kind"] == "Deployment"}
# What the manifests' heads name, and the newest one that the validator knows.
VERSIONS = ("1.30", kubernetes_validate.latest_version())

each_manifest = pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
each_workload = pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Manifest) -> list[Manifest]:
    spec = pod(workload)
    return [*spec.get("initContainers", ()), *spec["containers"]]


def gates() -> Iterator[tuple[Manifest, Manifest]]:
    """Each pod with a gate, and the gate's container."""
    for workload in WORKLOADS.values():
        for container in containers(workload):
            if container["name"] == "rustygate":
                yield pod(workload), container


def settings_of(gate: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in gate["env"]}


def shares_a_quota(gate: Manifest) -> bool:
    return names.REDIS_URL_FILE in settings_of(gate)


def labels(workload: Manifest) -> set[tuple[str, str]]:
    return set(workload["spec"]["template"]["metadata"]["labels"].items())


def selected(selector: dict[str, str]) -> list[Manifest]:
    """The workloads whose pods a selector matches."""
    return [each for each in WORKLOADS.values() if selector.items() <= labels(each)]


def secret_keys() -> set[str]:
    return set(MANIFESTS["secret-Secret"]["stringData"])


@each_manifest
@pytest.mark.parametrize("version", VERSIONS)
def test_manifest_is_valid(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_validator_finds_a_misspelt_field() -> None:
    broken = yaml.safe_load(yaml.safe_dump(MANIFESTS["gates-Deployment"]))
    pod(broken)["terminationGracePeriod"] = 45
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@each_workload
def test_pod_is_restricted(workload: Manifest) -> None:
    """As the Pod Security Standard `restricted` demands, and with a read-only root file system."""
    spec = pod(workload)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@each_workload
def test_container_has_resources(workload: Manifest) -> None:
    for container in containers(workload):
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert set(container["resources"]["limits"]) == {"memory"}


@each_workload
def test_selectors_match_the_pods(workload: Manifest) -> None:
    assert selected(workload["spec"]["selector"]["matchLabels"]) == [workload]


@pytest.mark.parametrize("file", ["gates", "single", "valkey"])
def test_service_reaches_a_named_port_of_its_pods(file: str) -> None:
    service = MANIFESTS[f"{file}-Service"]["spec"]
    assert selected(service["selector"]) == [WORKLOADS[f"{file}-Deployment"]]
    ports = containers(WORKLOADS[f"{file}-Deployment"])[0]["ports"]
    assert {port["targetPort"] for port in service["ports"]} == {port["name"] for port in ports}


def test_disruption_budget_covers_the_gates() -> None:
    budget = MANIFESTS["gates-PodDisruptionBudget"]["spec"]
    assert selected(budget["selector"]["matchLabels"]) == [WORKLOADS["gates-Deployment"]]
    assert budget["maxUnavailable"] < WORKLOADS["gates-Deployment"]["spec"]["replicas"]


def test_only_pods_with_a_gate_reach_valkey() -> None:
    policy = MANIFESTS["valkey-NetworkPolicy"]["spec"]
    assert selected(policy["podSelector"]["matchLabels"]) == [WORKLOADS["valkey-Deployment"]]
    [rule] = policy["ingress"]
    [source] = rule["from"]
    pods = [pod(each) for each in selected(source["podSelector"]["matchLabels"])]
    assert pods == [spec for spec, gate in gates() if shares_a_quota(gate)]


def test_all_kinds_of_gates_are_tested() -> None:
    assert [shares_a_quota(gate) for _, gate in gates()] == [True, True, False]


def test_single_gate_keeps_its_data_on_a_claimed_volume() -> None:
    [(spec, gate)] = [(spec, gate) for spec, gate in gates() if not shares_a_quota(gate)]
    [mount] = [each for each in gate["volumeMounts"] if each["name"] == "data"]
    assert mount["mountPath"] == settings_of(gate)["DATA_DIR"]
    assert "readOnly" not in mount
    assert claim_of(spec) == "rustygate-single"
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
    workload = WORKLOADS["single-Deployment"]["spec"]
    assert (workload["replicas"], workload["strategy"]) == (1, {"type": "Recreate"})


def test_valkey_keeps_the_usage_record_on_a_claimed_volume() -> None:
    spec = pod(WORKLOADS["valkey-Deployment"])
    assert claim_of(spec) == "rustygate-valkey"
    arguments = spec["containers"][0]["args"]
    assert arguments[arguments.index("--appendonly") + 1] == "yes"
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]


def claim_of(spec: Manifest) -> str:
    """The claim of a pod's volume `data`, which is in the same file."""
    [name] = [
        each["persistentVolumeClaim"]["claimName"]
        for each in spec["volumes"]
        if each["name"] == "data"
    ]
    claims = [
        each["metadata"]["name"]
        for each in MANIFESTS.values()
        if each["kind"] == "PersistentVolumeClaim"
    ]
    assert name in claims
    return str(name)


def test_pod_stops_after_its_gate_has_drained() -> None:
    drain = Settings(openai_api_key="sk-test").drain_timeout
    for spec, gate in gates():
        pause = gate.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert spec["terminationGracePeriodSeconds"] > pause + drain


def test_variables_of_a_gate_are_settings() -> None:
    known = {field.name.upper() for field in fields(Settings)} | set(names.SECRET_FILES.values())
    for _, gate in gates():
        assert {variable["name"] for variable in gate["env"]} <= known


def test_gates_of_both_files_have_the_same_settings() -> None:
    """They would be one group if both were applied, and the strictest limits would count."""
    settings = [settings_of(gate) for _, gate in gates() if shares_a_quota(gate)]
    for each in settings:
        each.pop("BIND_ADDRESS", None)
    assert settings[0] == settings[1]


def test_secrets_are_read_from_files_of_the_secret() -> None:
    for spec, gate in gates():
        values = settings_of(gate)
        [mount] = [each for each in gate["volumeMounts"] if each["name"] == "secrets"]
        [volume] = [each for each in spec["volumes"] if each["name"] == "secrets"]
        paths = {item["path"]: item["key"] for item in volume["secret"]["items"]}
        assert names.API_KEY_FILE in values
        for variable in values.keys() & {names.API_KEY_FILE, names.REDIS_URL_FILE}:
            folder, _, file = values[variable].rpartition("/")
            assert folder == mount["mountPath"]
            assert paths[file] in secret_keys()
        assert not values.keys() & names.SECRET_FILES.keys()


def test_app_beside_a_sidecar_gets_no_secret() -> None:
    [app] = pod(WORKLOADS["sidecar-Deployment"])["containers"]
    assert "volumeMounts" not in app
    assert {each["name"]: each["value"] for each in app["env"]}["OPENAI_API_KEY"] == "unused"


def test_password_of_valkey_is_in_the_url() -> None:
    values = MANIFESTS["secret-Secret"]["stringData"]
    service = MANIFESTS["valkey-Service"]["metadata"]["name"]
    assert values["redis-url"] == f"redis://:{values['valkey-password']}@{service}:6379"
    [valkey] = containers(WORKLOADS["valkey-Deployment"])
    [variable] = valkey["env"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "rustygate", "key": "valkey-password"}
    at = valkey["args"].index("--requirepass")
    assert valkey["args"][at + 1] == f"$({variable['name']})"


def test_probes_use_routes_of_the_gate() -> None:
    probes = {
        kind: gate[f"{kind}Probe"]["httpGet"]["path"]
        for _, gate in gates()
        for kind in ("startup", "liveness", "readiness")
        if "httpGet" in gate.get(f"{kind}Probe", {})
    }
    assert probes == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert probes["liveness"] in HEALTH_PATHS
    assert probes["readiness"] in READY_PATHS
