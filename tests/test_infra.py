"""What is in infra/, as far as it can be tried without Docker, a cluster and a cloud."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from afcore.errors import StoreError
from afcore.storage.objects import Storage
from tests.conftest import environment
from tests.prefect_rest import prefect_response

INFRA = Path(__file__).parents[1] / "infra"
BUCKET = "least-privilege"


@pytest.fixture
def compose() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
    return tree


def test_compose_publishes_on_loopback_and_holds_no_password(compose: dict[str, Any]) -> None:
    services = compose["services"]
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)
    given = [
        value
        for one in services.values()
        for name, value in one.get("environment", {}).items()
        if re.search("PASSWORD|SECRET|ACCESS_KEY|URL", name)
    ]
    assert len(given) >= 8
    assert all(re.search(r"\$\{\w+:\?", one) or ("@" not in one and ":" in one) for one in given)
    example = dict(
        line.split("=", 1)
        for line in (INFRA / "example.env").read_text().splitlines()
        if "=" in line
    )
    needed = set(re.findall(r"\$\{(\w+):\?", (INFRA / "compose.yaml").read_text()))
    assert needed <= set(example)
    assert not example["POSTGRES_PASSWORD"] + example["S3_PASSWORD"]


def test_services_wait_for_services_that_exist_and_say_when_they_are_ready(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for name, one in services.items():
        for needed, how in one.get("depends_on", {}).items():
            assert needed in services, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
        image = one["image"]
        assert image == "autofreeze" or ":" in image, f"{name}: {image} is not pinned"
        for volume in one.get("volumes", []):
            source = volume.partition(":")[0]
            known = (
                (INFRA / source).exists()
                if source.startswith(".")
                else source in compose["volumes"]
            )
            assert known, volume


def test_workers_and_servers_are_as_the_operations_say(compose: dict[str, Any]) -> None:
    operations = (INFRA.parent / "docs" / "operations.md").read_text()
    exported = dict(re.findall(r"^export (PREFECT_SERVER_\w+)=(\S+)$", operations, re.MULTILINE))
    assert len(exported) == 2
    services = compose["services"]
    assert exported.items() <= services["prefect"]["environment"].items()
    for name in ("worker", "worker-gpu"):
        assert services[name]["command"].endswith(" --limit 1")


def test_a_deployment_names_store_and_mlflow_as_no_variable_does(compose: dict[str, Any]) -> None:
    text = (INFRA / "compose.yaml").read_text()
    kubernetes = (INFRA / "kubernetes" / "worker.yaml").read_text()
    for one in (text, kubernetes):
        assert "`tracking.uri: http://mlflow:5000`" in one
        assert "MLFLOW_TRACKING_URI" not in one
    assert "--port 5000" in compose["services"]["mlflow"]["command"]
    assert "`store: s3://autofreeze/store`" in text
    assert "s3/autofreeze " in compose["services"]["bucket"]["command"][1]


def test_the_image_has_what_a_worker_needs_and_is_not_root() -> None:
    text = (INFRA / "Dockerfile").read_text()
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    assert all((INFRA.parent / path).exists() for line in copied for path in line.split())
    assert re.findall(r"^USER (\w+)$", text, re.MULTILINE)[-1] == "autofreeze"
    lock = (INFRA.parent / "requirements.lock").read_text()
    assert re.search(r"^torch==", lock, re.MULTILINE)
    assert re.search(r"^asyncpg==", lock, re.MULTILINE)
    assert re.search(r"^boto3==", lock, re.MULTILINE)


def test_the_job_template_asks_for_gpus_and_its_blanks_are_variables() -> None:
    text = (INFRA / "kubernetes" / "job-template.json").read_text()
    tree = json.loads(text)
    blanks = set(re.findall(r"\{\{ (\w+) \}\}", text))
    assert blanks == set(tree["variables"]["properties"])
    pod = tree["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert pod["restartPolicy"] == "Never"
    mounts = {one["name"] for one in container["volumeMounts"]}
    assert mounts == {one["name"] for one in pod["volumes"]}


def test_prefect_takes_the_job_template(prefect_server: str) -> None:
    template = json.loads((INFRA / "kubernetes" / "job-template.json").read_text())
    pool = {"name": "gpu", "type": "kubernetes", "base_job_template": template}
    answer = prefect_response("POST", f"{prefect_server}/work_pools/", pool)
    assert answer.status_code == 201, answer.text


def test_what_the_manifests_name_is_in_them() -> None:
    documents = list(yaml.safe_load_all((INFRA / "kubernetes" / "worker.yaml").read_text()))
    names = {(one["kind"], one["metadata"]["name"]) for one in documents}
    assert {one["metadata"]["namespace"] for one in documents} == {"autofreeze"}
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in names
    (container,) = pod["containers"]
    assert ("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]) in names
    pinned = re.search(r"^prefect==(\S+)$", (INFRA.parent / "requirements.lock").read_text(), re.M)
    assert pinned is not None
    assert f":{pinned[1]}-" in container["image"]
    (role,) = (one for one in documents if one["kind"] == "Role")
    assert "*" not in json.dumps(role["rules"])
    template = json.loads((INFRA / "kubernetes" / "job-template.json").read_text())
    training = template["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert ("ServiceAccount", training["serviceAccountName"]) in names


@pytest.fixture
def limited_user(s3_endpoint: str) -> Iterator[dict[str, str]]:
    """Credentials that may do what infra/s3/policy.json says, on a server that looks."""
    import boto3
    import s3fs
    from moto import settings
    from moto.core.authorization import ActionAuthenticatorMixin

    boto3.client("s3").create_bucket(Bucket=BUCKET)
    boto3.client("s3").put_object(Bucket=BUCKET, Key="others/secret", Body=b"x")
    policy = (INFRA / "s3" / "policy.json").read_text()
    policy = policy.replace("BUCKET", BUCKET).replace("PREFIX", "team/autofreeze")
    iam = boto3.client("iam")
    iam.create_user(UserName="training")
    iam.put_user_policy(UserName="training", PolicyName="store", PolicyDocument=policy)
    key = iam.create_access_key(UserName="training")["AccessKey"]
    before = settings.INITIAL_NO_AUTH_ACTION_COUNT
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
    count, ActionAuthenticatorMixin.request_count = ActionAuthenticatorMixin.request_count, 1
    s3fs.S3FileSystem.clear_instance_cache()  # those of other tests have other credentials
    try:
        yield {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }
    finally:
        settings.INITIAL_NO_AUTH_ACTION_COUNT = before
        ActionAuthenticatorMixin.request_count = count
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.s3
def test_the_policy_is_enough_for_a_store_and_for_nothing_else(
    limited_user: dict[str, str],
) -> None:
    with environment(limited_user):
        store = Storage(f"s3://{BUCKET}/team/autofreeze")
        store.check()
        store.put("runs/a/record.json", b"1")
        assert store.put_new("runs/a/lease.json", b"1")
        assert not store.put_new("runs/a/lease.json", b"2")
        assert store.get("runs/a/record.json") == b"1"
        assert set(store.list("runs")) == {"runs/a/record.json", "runs/a/lease.json"}
        # One by one: of many at once moto asks about the bucket, AWS about each key.
        for key in store.list("runs"):
            store.delete(key)
        assert store.list("") == {}
        elsewhere = Storage(f"s3://{BUCKET}/others")
        with pytest.raises(StoreError):
            elsewhere.get("secret")
        with pytest.raises(StoreError):
            elsewhere.put("mine", b"x")


@pytest.mark.s3
def test_an_s3_server_takes_the_lifecycle_rules(s3_endpoint: str) -> None:
    import boto3

    text = (INFRA / "s3" / "lifecycle.json").read_text().replace("PREFIX", "team/autofreeze")
    client = boto3.client("s3")
    client.create_bucket(Bucket="lifecycle")
    client.put_bucket_lifecycle_configuration(
        Bucket="lifecycle", LifecycleConfiguration=json.loads(text)
    )
    rules = client.get_bucket_lifecycle_configuration(Bucket="lifecycle")["Rules"]
    # The folder of sets that runs share; records and models lie elsewhere and never expire.
    assert rules[0]["Filter"]["Prefix"] == "team/autofreeze/activations/"
    assert [one for one in rules if "Expiration" in one] == rules[:1]
