"""Images and the compose file: from the lock, never root, no secret in them; their pip layers resolve and install by themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.image_closure import plain
from tests.linked_environment import linked_environment, pip

DOCKER = ROOT / "docker"
IMAGES = ("orchestrator", "pipeline", "trainer")


def test_images_run_as_a_numeric_user_from_the_lock_on_any_base() -> None:
    files = sorted((ROOT / "docker").glob("*.Dockerfile"))
    assert [path.name.split(".")[0] for path in files] == ["orchestrator", "pipeline", "trainer"]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in files:
        lines = path.read_text().replace("\\\n", " ").splitlines()
        said = [line.split(None, 1) for line in lines if line and not line.startswith(("#", " "))]
        assert said[0][0] == "ARG"
        assert said[0][1].startswith("BASE_IMAGE=")
        assert [rest for word, rest in said if word == "FROM"] == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"], path.name
        assert ("USER", "${USER_ID}") in [tuple(item) for item in said]
        assert ("ARG", "USER_ID=10001") in [tuple(item) for item in said]
        assert any(word == "HEALTHCHECK" for word, _ in said)
        installs = [rest for word, rest in said if word == "RUN" and "pip install" in rest]
        assert installs
        for line in installs:
            assert line.count("pip install") == line.count("--constraint constraints.txt"), (
                f"{path.name}: not from the lock"
            )
        for word, rest in said:
            if word == "COPY" and "--from" not in rest:
                for source in rest.split()[:-1]:
                    assert (ROOT / source).exists(), f"{path.name}: {source}"
                    assert source in let_in, f"{path.name}: .dockerignore keeps {source} out"
            assert word != "ADD"


def test_dockerfiles_and_scripts_are_linted() -> None:
    programs = Path(sys.prefix) / "bin"
    scripts = [path for path in ROOT.rglob("*.sh") if not {".venv", ".venv-peers", ".hyperclova"} & set(path.parts)]
    assert len(scripts) >= 5
    for command in (
        [programs / "hadolint", *sorted(DOCKER.glob("*.Dockerfile"))],
        [programs / "shellcheck", *sorted(scripts), ROOT / ".ci" / "run"],
    ):
        ended = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout


def layer_of(image: str) -> list[str]:
    """The requirements of an image's pip layer, as its Dockerfile gives them to pip."""
    text = (DOCKER / f"{image}.Dockerfile").read_text().replace("\\\n", " ")
    (command,) = [line for line in text.splitlines() if "pip install" in line and "--editable" in line]
    words = command[command.rindex("pip install") :].replace('"', "").replace("'", "").split()
    extras = re.search(r"ARG EXTRAS=(\S+)", text)
    return [
        word.replace("${EXTRAS}", extras[1] if extras else "")
        for word in words[2:]
        if not word.startswith(("--no-cache", "--disable"))
    ]


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Image → an environment with what its layer installs; made once."""
    folder = tmp_path_factory.mktemp("layers")

    @lru_cache
    def environment(image: str) -> Path:
        made = linked_environment(image, folder / image)
        pip(made, "install", "--quiet", "--no-build-isolation", *layer_of(image))
        return made

    return environment


@pytest.mark.slow
@pytest.mark.parametrize("image", IMAGES)
def test_a_layer_resolves_to_the_lock_alone(image: str, environments: Callable[[str], Path]) -> None:
    layer = layer_of(image)
    assert layer[:2] == ["--constraint", "constraints.txt"]
    locked = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line:
            name, version = line.split("==")
            locked[plain(name)] = version
    listed = json.loads(pip(environments(image), "list", "--format", "json"))
    found = {plain(item["name"]): item["version"] for item in listed}
    assert found.pop("hyperclova")
    assert {plain(need) for need in ("pyspark", "mlflow", "torch")} & set(found)
    missing = sorted(set(found) - set(locked))
    assert not missing, f"{image} installs what the lock does not know: {missing}"
    # a local version (torch's +cpu) is the same release
    assert {name: version.split("+")[0] for name, version in found.items()} == {
        name: locked[name].split("+")[0] for name in found
    }
    pip(environments(image), "check")


@pytest.mark.slow
def test_the_orchestrators_layer_works_in_an_environment_of_its_own(
    environments: Callable[[str], Path], tmp_path: Path
) -> None:
    """It alone has packages that this environment lacks: users with passwords, PostgreSQL."""
    clean = environments("orchestrator")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {"AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"}
    environment |= {
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "PATH": f"{clean / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*words: str, given: str = "") -> str:
        ended = subprocess.run(
            words, env=environment, input=given, capture_output=True, text=True, check=False, start_new_session=True
        )
        assert ended.returncode == 0, (words, ended.stdout[-1000:], ended.stderr[-2000:])
        return ended.stdout

    run("python", "-c", "import asyncpg, psycopg2, kubernetes, mlflow, pyspark")
    run("airflow", "db", "migrate")
    password = "a password of no worth"
    who = ["--username", "admin", "--role", "Admin", "--firstname", "A", "--lastname", "B", "--email", "a@localhost"]
    assert 'User "admin" created' in run("airflow", "users", "create", *who, given=f"{password}\n{password}\n")
    code = "from airflow.dag_processing.dagbag import DagBag; import sys; b = DagBag(sys.argv[1]); print(sorted(b.dags), b.import_errors)"
    assert "['pretrain_hyperclova', 'refresh_corpus'] {}" in run("python", "-c", code, str(ROOT / "dags"))
    entry = str(DOCKER / "orchestrator-entrypoint.sh")
    assert run(entry, "version").strip() == version("apache-airflow"), "a word without a program is Airflow's"
    assert run(entry, "bash", "-c", "echo here").strip() == "here"


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


def test_the_compose_file_listens_here_alone_and_holds_no_secret() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        if "HYPERCLOVA_IMAGE" in service["image"]:
            assert service["user"] == "10001:10001"
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|FERNET|PSEUDONYM_KEY", key) and key != "AWS_SECRET_ACCESS_KEY":
                assert re.fullmatch(r"\$\{\w+\}", str(value)), key
        words = service.get("command", [])
        assert not [word for word in words if re.search(r"(?<!\$)\$\{\w*(PASSWORD|SECRET)", word)], (
            "arguments can be read by all"
        )
    assert set(services) >= {"postgres", "s3", "mlflow", "airflow-api-server", "airflow-scheduler", "airflow-triggerer"}


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    command = [sys.executable, str(DOCKER / "make_secrets.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    first = (tmp_path / ".env").read_text()
    subprocess.run(command, check=True)
    assert (tmp_path / ".env").read_text() == first, "databases know the first"
    for name in (".env", "s3.json"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    made = {line.split("=")[0] for line in first.splitlines()}
    wanted = set(re.findall(r"\$\{(\w+?)(?::\?[^}]*)?\}", (DOCKER / "compose.yaml").read_text()))
    assert wanted <= made, "the compose file wants what is not made"
    older = "".join(line for line in first.splitlines(keepends=True) if not line.startswith("MLFLOW_WRITER"))
    (tmp_path / ".env").write_text(older)
    subprocess.run(command, check=True)
    later = (tmp_path / ".env").read_text()
    assert later.startswith(older) and "MLFLOW_WRITER_PASSWORD=" in later, "a later version's names are added"
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"docker/.env", "docker/s3.json"} <= set(ignored)


def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed: the file was parsed only")
    values = {
        name: "x"
        for name in re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text())
        if "IMAGE" not in name and "PORT" not in name
    }
    ended = subprocess.run(
        [program, "-f", str(DOCKER / "compose.yaml"), "config", "-q"],
        env={**os.environ, **values},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
