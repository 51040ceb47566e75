"""The chart: valid for every Kubernetes it says, no more rights than are used, no secret in it, and mistakes in values are named."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.pipeline.recipe import load_recipe
from tests.chart.render import CHART, VALUES, call, rendered, rules_of, values
from tests.jobs import schemas

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
PODS = ("Deployment", "StatefulSet", "Job", "Pod")


def pod_of(item: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("case", [None, *VALUES])
def test_it_lints_and_its_objects_are_valid(case: str | None) -> None:
    words = values(case) if case else ()
    ended = call("lint", "--strict", str(CHART), *words)
    assert ended.returncode == 0, ended.stdout
    objects = rendered(*words)
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)
    for item in objects:
        if item["kind"] in schemas.FILES:
            schemas.validate(item)
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("case", VALUES)
def test_pods_are_not_root_and_may_do_nothing(case: str) -> None:
    seen = 0
    for item in rendered(*values(case)):
        if item["kind"] not in PODS:
            continue
        spec = pod_of(item)
        assert spec["securityContext"]["runAsNonRoot"], item["metadata"]["name"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False, "only Airflow and Spark's drivers ask the API server"
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert container["securityContext"]["readOnlyRootFilesystem"], container["name"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            seen += 1
    assert seen >= 3


@pytest.mark.parametrize("case", VALUES)
def test_no_secret_is_in_it_and_each_is_named(case: str) -> None:
    objects = rendered(*values(case))
    assert not [item for item in objects if item["kind"] == "Secret"]
    text = json.dumps(objects)
    assert "POSTGRES_PASSWORD" not in text, "passwords come by whole secrets, not key by key"
    named = {
        source["secretRef"]["name"]
        for item in objects
        if item["kind"] in PODS
        for container in [*pod_of(item)["containers"], *pod_of(item).get("initContainers", ())]
        for source in container.get("envFrom", ())
        if "secretRef" in source
    }
    assert {"s3-credentials", "hyperclova-mlflow"} <= named


def test_rights_are_the_least() -> None:
    objects = rendered(*values("kind"))
    assert not [item for item in objects if item["kind"].startswith("ClusterRole")]
    for item in objects:
        if item["kind"] == "Role":
            for rule in item["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
                assert "secrets" not in rule["resources"], "nobody reads secrets by the API"
                assert not {"pods/exec", "pods/attach", "nodes"} & set(rule["resources"])
    assert rules_of(objects, "hyperclova-job") == []
    assert rules_of(objects, "hyperclova-mlflow") == []
    extra = rules_of(
        rendered("--set", "jobs.jobSet=true,jobs.volcano=true,kueue.enabled=true"), "hyperclova-orchestrator"
    )
    groups = {group for rule in extra for group in rule["apiGroups"]}
    assert {"jobset.x-k8s.io", "scheduling.volcano.sh", "kueue.x-k8s.io"} <= groups


def test_every_pod_is_under_a_network_policy() -> None:
    objects = rendered(*values("kind"))
    selectors = [item["spec"]["podSelector"]["matchLabels"] for item in objects if item["kind"] == "NetworkPolicy"]
    for item in objects:
        if item["kind"] in PODS:
            labels = (
                item["metadata"]["labels"] if item["kind"] == "Pod" else item["spec"]["template"]["metadata"]["labels"]
            )
            assert any(selector.items() <= labels.items() for selector in selectors), item["metadata"]["name"]
    gpu = next(item for item in objects if item["metadata"]["name"] == "hyperclova-gpu-jobs")
    assert [list(peer) for rule in gpu["spec"]["ingress"] for peer in rule["from"]] == [
        ["namespaceSelector", "podSelector"]
    ]
    ports = sorted(port["port"] for rule in gpu["spec"]["egress"] for port in rule.get("ports", ()))
    assert ports == [53, 53, 5000, 8333], "names, MLflow, the object store, and each other"
    assert not [item for item in rendered("--set", "networkPolicies.enabled=false") if item["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("user=0", "'/user': minimum"),
        ("mlflwo.enabled=true", "'mlflwo' not allowed"),
        ("warehouse.uri=gs://x/y", "'/warehouse/uri'"),
        ("images.pullPolicy=Sometimes", "'/images/pullPolicy'"),
        ("mlflow.ingress.enabled=true", "'/mlflow/ingress/host'"),
        ("kueue.quota.cpu=many", "'/kueue/quota/cpu'"),
    ],
)
def test_a_mistake_in_values_is_named(setting: str, words: str) -> None:
    ended = call("template", "x", str(CHART), "--set", setting)
    assert ended.returncode != 0
    assert words in ended.stderr


@pytest.mark.parametrize("case", VALUES)
def test_a_recipe_that_says_nothing_runs_where_the_chart_says(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(*values(case))
    (told,) = [item["data"] for item in objects if item["metadata"]["name"] == "hyperclova-cluster"]
    path = tmp_path / "cluster.yaml"
    path.write_text(told["cluster.yaml"])
    monkeypatch.setenv("HYPERCLOVA_CLUSTER", str(path))
    recipe = load_recipe("smoke")
    assert recipe.jobs.backend == "kubernetes"
    assert recipe.jobs.cluster is not None
    assert recipe.spark_cluster is not None
    jobs = "hyperclova-jobs" if case == "multi-node-kueue" else "hyperclova"
    assert recipe.jobs.cluster.namespace == recipe.spark_cluster.namespace == jobs
    assert recipe.jobs.cluster.image == "hyperclova-trainer:0.1.0"
    assert recipe.spark_cluster.secrets == ("s3-credentials", "hyperclova-mlflow-writer", "hyperclova-pseudonym")
    if case == "multi-node-kueue":
        assert (recipe.jobs.cluster.gang, recipe.jobs.cluster.queue) == ("kueue", "research")
    if case == "one-node-gpu":
        assert [item.key for item in recipe.jobs.cluster.tolerations] == ["nvidia.com/gpu"]
    chosen = load_recipe("smoke", ("jobs.cluster.cpu=3",))
    assert chosen.jobs.cluster is not None
    assert (chosen.jobs.cluster.cpu, chosen.jobs.cluster.image) == ("3", "hyperclova-trainer:0.1.0")
    path.write_text("ingest: {}")
    with pytest.raises(ConfigError, match="says more than that"):
        load_recipe("smoke")


def test_what_airflows_pods_would_lack_is_refused() -> None:
    for settings, words in (
        ("data.claim=crawl", "Airflow's pods need the claim crawl too"),
        ("warehouse.claim.enabled=true", "need the claim x-warehouse too"),
        ("warehouse.claim.enabled=true,jobs.namespace=other", "cannot be mounted in two namespaces"),
        ("images.registry=r.example/t", "name the registry there too"),
    ):
        ended = call("template", "x", str(CHART), "--set", settings)
        assert ended.returncode != 0, settings
        assert words in ended.stderr, ended.stderr
    mounted = "airflow.volumes[0].name=d,airflow.volumes[0].persistentVolumeClaim.claimName=crawl"
    assert call("template", "x", str(CHART), "--set", f"data.claim=crawl,{mounted}").returncode == 0


def test_images_are_tagged_as_the_chart_asks_for_them() -> None:
    ours = yaml.safe_load((CHART / "values.yaml").read_text())["images"]
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert {ours[name]["tag"] for name in ("orchestrator", "pipeline", "trainer")} == {version}
    assert f'version = "{version}"' in (CHART.parents[1] / "pyproject.toml").read_text()


def test_airflow_is_told_where_everything_is() -> None:
    objects = rendered(*values("kind"), "--set-literal", "recipes.mine=name: mine")
    maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
    told = maps["hyperclova-environment"]
    assert told["MLFLOW_TRACKING_URI"] == "http://platform-mlflow.hyperclova:5000"
    assert told["AWS_ENDPOINT_URL_S3"] == "http://platform-s3.hyperclova:8333"
    assert told["HYPERCLOVA_CONF"].startswith("/opt/hyperclova/recipes:")
    assert maps["hyperclova-recipes"] == {"mine.yaml": "name: mine\n"}
    spark = json.loads(told["AIRFLOW_CONN_SPARK_DEFAULT"])
    assert spark["host"].startswith("k8s://")
    assert spark["extra"] == {"deploy-mode": "cluster", "namespace": "hyperclova"}
    assert json.loads(told["AIRFLOW_CONN_KUBERNETES_DEFAULT"])["extra"]["in_cluster"] is True


def test_trainings_are_given_nothing_of_restricted_data() -> None:
    place = "s3://hyperclova-restricted/warehouse"
    objects = rendered(*values("kind"), "--set", f"s3.restricted.uri={place}")
    maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
    assert maps["hyperclova-environment"]["HYPERCLOVA_RESTRICTED"] == place
    told = yaml.safe_load(maps["hyperclova-cluster"]["cluster.yaml"])
    trainer, stages = told["jobs"]["cluster"], told["spark_cluster"]
    assert trainer["secrets"] == ["s3-credentials", "hyperclova-mlflow-writer"]
    assert stages["secrets"] == [*trainer["secrets"], "hyperclova-pseudonym", "hyperclova-restricted"]
    assert stages["authentication_secret"] == "hyperclova-spark"
    assert stages["executor_account"] == "hyperclova-executor", "a cloud's identity of its own, which trainings lack"
    buckets = [
        container["command"][-1]
        for item in objects
        if item["kind"] == "Job" and item["metadata"]["name"].endswith("-bucket")
        for container in pod_of(item)["containers"]
    ]
    assert buckets == ["hyperclova", "hyperclova-restricted"]
    inside = rendered(*values("kind"))
    maps = {item["metadata"]["name"]: item["data"] for item in inside if item["kind"] == "ConfigMap"}
    assert "HYPERCLOVA_RESTRICTED" not in maps["hyperclova-environment"]
    assert "hyperclova-restricted" not in maps["hyperclova-cluster"]["cluster.yaml"]


def test_an_accounts_own_annotations_count_most() -> None:
    both = "serviceAccounts.annotations.role=all,serviceAccounts.executor.role=stages"
    accounts = {
        item["metadata"]["name"]: item["metadata"].get("annotations")
        for item in rendered("--set", both)
        if item["kind"] == "ServiceAccount"
    }
    assert accounts["hyperclova-job"] == {"role": "all"}
    assert accounts["hyperclova-executor"] == {"role": "stages"}


def test_mlflow_asks_who_somebody_is() -> None:
    def server(*settings: str) -> tuple[list[str], list[str]]:
        item = next(
            item
            for item in rendered(*settings)
            if item["kind"] == "Deployment" and item["metadata"]["name"].endswith("mlflow")
        )
        container, first = pod_of(item)["containers"][0], pod_of(item)["initContainers"][0]
        return container["command"], [source["secretRef"]["name"] for source in first["envFrom"]]

    command, secrets = server()
    assert command[command.index("--app-name") + 1] == "basic-auth"
    assert secrets == ["hyperclova-mlflow", "hyperclova-mlflow-writer"], "the server's own pod makes the writer"
    command, secrets = server("--set", "mlflow.authentication=false")
    assert "--app-name" not in command and secrets == ["hyperclova-mlflow"]


def test_sizes_train_side_by_side_where_devices_are_given_by_a_queue() -> None:
    def told(*settings: str) -> str:
        objects = rendered(*values("kind"), *settings)
        maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
        return str(maps["hyperclova-environment"]["HYPERCLOVA_TRAININGS_AT_ONCE"])

    assert told("--set", "kueue.enabled=false") == "1", (
        "two jobs of many pods might each hold half of the devices for ever"
    )
    assert told("--set", "kueue.enabled=true") == "8"
    assert told("--set", "kueue.enabled=true,jobs.trainingsAtOnce=3") == "3"


def test_what_airflows_values_repeat_agrees_with_ours() -> None:
    """A dependency cannot read its parent's values: names are said twice."""
    ours = yaml.safe_load((CHART / "values.yaml").read_text())
    airflow = ours["airflow"]
    assert airflow["images"]["airflow"] == {
        "repository": ours["images"]["orchestrator"]["name"],
        "tag": ours["images"]["orchestrator"]["tag"],
    }
    assert airflow["securityContexts"]["pod"]["runAsUser"] == ours["user"]
    for case in VALUES:
        told = yaml.safe_load((CHART / "values" / f"{case}.yaml").read_text())
        assert told.get("tolerations") == told.get("airflow", {}).get("tolerations"), case
    sources = yaml.safe_load(airflow["extraEnvFrom"])
    assert {name for source in sources for name in (reference["name"] for reference in source.values())} == {
        "hyperclova-environment",
        ours["s3"]["secret"],
        ours["s3"]["restricted"]["secret"],
        ours["pseudonymSecret"],
        ours["mlflow"]["writerSecret"],
    }
    made = {item["metadata"]["name"] for item in rendered("--set-literal", "recipes.mine=name: mine")}
    assert {
        "hyperclova-environment",
        "hyperclova-recipes",
        "hyperclova-airflow-logs",
        "hyperclova-orchestrator",
    } <= made
    assert airflow["logs"]["persistence"]["existingClaim"] == "hyperclova-airflow-logs"
    for component in ("scheduler", "triggerer"):
        assert airflow[component]["serviceAccount"] == {"create": False, "name": "hyperclova-orchestrator"}
    dependency = yaml.safe_load((CHART / "airflow-dependency.yaml").read_text())["dependencies"][0]
    assert dependency["condition"] == "airflow.enabled"
    pinned = next(
        line
        for line in (CHART.parents[1] / "constraints.txt").read_text().splitlines()
        if line.startswith("apache-airflow==")
    )
    assert airflow["airflowVersion"] == pinned.split("==")[1]


def test_the_script_makes_every_secret_that_the_chart_names() -> None:
    made = {item["metadata"]["name"]: item["stringData"] for item in yaml.safe_load_all(_secrets()) if item}
    for item in yaml.safe_load_all(_secrets()):
        if item:
            kubernetes_validate.validate(item, "1.33", strict=True)
    text = (CHART / "values.yaml").read_text()
    named = {"s3-credentials", "s3-server", *re.findall(r"(?:[sS]ecret|SecretName): (hyperclova-[a-z-]+)", text)}
    named |= set(re.findall(r"\w+SecretName: (hyperclova-[a-z-]+)", text))
    assert named == set(made)
    password = made["hyperclova-postgresql"]["MLFLOW_PASSWORD"]
    assert f"mlflow:{password}@platform-postgresql/" in made["hyperclova-mlflow"]["MLFLOW_BACKEND_STORE_URI"]
    assert (
        json.loads(made["s3-server"]["config.json"])["identities"][0]["credentials"][0]["secretKey"]
        == made["s3-credentials"]["AWS_SECRET_ACCESS_KEY"]
    )
    again = {item["metadata"]["name"]: item["stringData"] for item in yaml.safe_load_all(_secrets()) if item}
    assert again["hyperclova-pseudonym"] != made["hyperclova-pseudonym"]


def _secrets() -> str:
    return subprocess.run([str(CHART.parent / "secrets.sh")], capture_output=True, text=True, check=True).stdout
