"""The files that bring the service into production hold what they promise, as far as no container has to be built."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "early-persistence.service"


def of_kind(kind: str) -> list[dict[str, Any]]:
    """The Kubernetes manifests of one kind."""
    text = (DEPLOY / "kubernetes" / "early-persistence.yaml").read_text()
    return [manifest for manifest in yaml.safe_load_all(text) if manifest["kind"] == kind]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name  # with an interpreter that this machine has
    here.write_text(UNIT.read_text().replace("/opt/early-persistence/bin/python", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and UNIT.name not in done.stderr, done.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.returncode == 0, judged.stdout[-500:]


def test_every_service_of_compose_is_confined() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if "build" not in service:  # ours has its user from the Dockerfile
            assert not service["user"].startswith("0"), name
            assert service["profiles"], name  # only where asked for
    assert "tokens" in compose["secrets"]
    ignored = subprocess.run(["git", "-C", str(ROOT), "check-ignore", "deploy/tokens"], check=False).returncode
    assert ignored == 0


def test_the_image_runs_as_nobody_and_carries_no_secret() -> None:
    text = (ROOT / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert final.index("\nUSER ") < final.index("\nENTRYPOINT ")
    (check,) = re.findall(r"^HEALTHCHECK .*\\\n\s*CMD (\[.*\])$", final, re.MULTILINE)
    assert "/healthz" in json.loads(check)[-1]
    assert not re.search(r"^(ARG|ENV)\b.*(SECRET|PASSWORD|TOKEN=)", text, re.MULTILINE)
    assert not re.search(r"^COPY (--\S+ )*\. ", text, re.MULTILINE)  # what is copied is named


@pytest.mark.parametrize("name", ["early-persistence.yaml", "tokens.yaml.example"])
def test_the_manifests_are_valid(name: str) -> None:
    for manifest in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_a_shard_alone_writes_its_database_and_is_drained() -> None:
    (shards,) = of_kind("StatefulSet")
    pod = shards["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (claim,) = shards["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    (nap,) = re.findall(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])
    unit_stop = int(re.findall(r"TimeoutStopSec=(\d+)", UNIT.read_text())[0])
    assert pod["terminationGracePeriodSeconds"] >= int(nap) + unit_stop
    security = container["securityContext"]  # the "restricted" profile
    assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_every_path_of_a_camera_goes_to_the_shard_of_that_camera() -> None:
    cameras, rest = of_kind("Ingress")
    (path,) = cameras["spec"]["rules"][0]["http"]["paths"]
    key = cameras["metadata"]["annotations"]["nginx.ingress.kubernetes.io/upstream-hash-by"]
    for asked in ("/v1/cameras/gate", "/v1/cameras/gate/frames", "/v1/cameras/gate/tracks/7"):
        found = re.match(path["path"], asked)
        assert found is not None and key.replace("$1", found[1]) == "/v1/cameras/gate"
    constant = rest["metadata"]["annotations"]["nginx.ingress.kubernetes.io/upstream-hash-by"]
    assert "$" not in constant
