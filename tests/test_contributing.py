"""The worked examples of CONTRIBUTING.md work as they stand."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {
    part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.S)[0]
    for part in re.split(r"^### ", GUIDE, flags=re.M)[1:]
}


def test_every_way_to_add_something_has_an_example() -> None:
    assert len(EXAMPLES) == 5
    assert len(re.findall(r"^def check\(folder: Path\)", GUIDE, re.M)) == 5


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_works_as_it_stands(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "example_" + re.sub(r"\W+", "_", title.lower())
    (tmp_path / f"{name}.py").write_text(EXAMPLES[title], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(name).check(tmp_path)


def test_files_that_the_guides_name_are_there() -> None:
    for guide in (GUIDE, (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")):
        named = set(re.findall(r"`((?:\w+/)+\w+\.(?:py|md|json|txt|yaml))`", guide))
        assert len(named) >= 10
        for path in sorted(named):
            places = (
                ROOT / path,
                ROOT / "hyperclova_core" / path,
                ROOT / "hyperclova_core" / "corpus" / "deduplicate" / path,
            )
            assert any(place.exists() for place in places), path
