"""The generated pages are those that the code gives, and leave nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.generate import pages
from docs.generate.markdown import number, prose, table
from docs.generate.rpcs import ERROR

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("protos/convlens", "models", "workers", "server", "clients")
PROTOS = sorted((ROOT / "protos/convlens/v1").glob("*.proto"))
PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_gives(name):
    assert (ROOT / "docs" / name).read_text() == PAGES[name], "run `make docs`"


def test_no_generated_page_is_left_over():
    committed = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs/reference/rpcs").glob("*.md")}
    assert committed == {name for name in PAGES if name.startswith("reference/rpcs/")}


def test_every_variable_that_the_code_names_has_a_place_on_the_page_of_settings():
    sources = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"\bCONVLENS_[A-Z_]*[A-Z]\b", path.read_text())}
    assert "CONVLENS_TOKEN" in named
    headings = re.findall(r"^### (.+)$", PAGES["reference/settings.md"], re.MULTILINE)
    explained = re.findall(r"\w+", " ".join(headings))
    assert named <= set(explained)
    assert len(explained) == len(set(explained))


@pytest.mark.parametrize("name", [name for name in PAGES if "rpcs" in name or "settings" in name])
def test_no_setting_message_or_method_is_without_an_explanation(name):
    assert not re.search(
        r"^###? .+\n\n+(###?|\*[A-Z])", PAGES[name].replace("## Messages\n", ""), re.MULTILINE
    )


@pytest.mark.parametrize("proto", PROTOS, ids=lambda path: path.stem)
def test_the_errors_of_a_method_are_a_list_of_codes_of_which_the_table_loses_none(proto):
    for comment in re.findall(r"// Errors: (.*?)\.\s+rpc ", proto.read_text(), re.DOTALL):
        errors = re.sub(r"\s*//\s*|\s+", " ", comment)
        assert ", ".join(match.group() for match in ERROR.finditer(errors)) == errors


def test_comments_are_shown_as_they_are_written():
    assert prose("a < b | c * d,\n `x|y` arXiv:1612.01234.") == (
        "a &lt; b &#124; c \\* d, `x|y` [arXiv:1612.01234](https://arxiv.org/abs/1612.01234)."
    )


def test_numbers_are_shown_as_one_writes_them():
    shown = [number(value) for value in (1000, 8 / 255, 0.05, 2**53 - 1, 1e17)]
    assert shown == ["1000", "8/255", "0.05", "2^53 - 1", "1e+17"]


def test_a_table_without_rows_is_nothing():
    assert table(("a", "b"), []) == ""
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
