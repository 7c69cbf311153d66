"""`make demo` against the machine that runs already: every scene plays, and the page shows what it made."""

from __future__ import annotations

import re

from PIL import Image

from convlens_client.demo.__main__ import INTRODUCTION, TITLE, play
from convlens_client.demo.page import Section, render
from convlens_client.demo.scenes import SCENES


def test_every_scene_plays_and_is_on_the_page(machine, tmp_path, capsys):
    sections = play(machine.address, tmp_path)
    assert len(sections) == len(SCENES)
    told = capsys.readouterr().out
    assert all(name in told for name in SCENES)
    page = render(TITLE, INTRODUCTION, sections)
    files = re.findall(r'src="([^"]+)"', page)
    assert len(files) == len(set(files)) == sum(len(section.figures) for section in sections)
    for file in files:
        with Image.open(tmp_path / file) as image:
            assert min(image.size) > 50
            assert max(high - low for low, high in image.convert("RGB").getextrema()) > 50
    assert "http" not in page
    assert all(section.text and section.milliseconds for section in sections)


def test_what_a_label_holds_cannot_break_the_page():
    page = render("t", "i", [Section("<b>", "&", rows=[("<script>",)])])
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
