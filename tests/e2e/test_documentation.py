"""The Python of the documentation's pages runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "guides/from-a-service.md"
SENSITIVITY = DOCS / "guides/saliency.md"


def test_the_examples_run(machine, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVLENS_SERVER", machine.address)
    for name in ("cat.jpg", "photo.jpg"):
        with Image.open(photo) as image:
            image.resize((160, 120)).save(name)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    names["client"].close()
    assert names["image"].shape == (1, 3, 120, 160)
    assert "top_k top_k = 0: must be between 1 and 1000" in capsys.readouterr().out


def test_the_examples_of_sensitivity_run(machine, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVLENS_SERVER", machine.address)
    with Image.open(photo) as image:
        image.resize((160, 120)).save("cat.jpg")
    (block,) = re.findall(r"```python\n(.*?)```", SENSITIVITY.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, str(SENSITIVITY), "exec"), names)
    names["client"].close()
    assert names["cam"].map.shape == (1, 1, 96, 96)
    assert "features.conv5_1" in capsys.readouterr().out
