"""The site: what its build refuses, and the paths and pages that texts name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
FOLDERS = ("docs", "deploy", "tests", "protos", "models", "workers", "server", "clients", "benchmarks")
READ = (".py", ".yaml", ".json", ".env", ".proto", ".sh")
PATH = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("*.py")
    for name in re.findall(r"def (test_\w+)", path.read_text())
}
LINK = re.compile(r"\]\(((?!https?:)[^)#\s]+)")


def test_the_build_refuses_a_broken_link_a_missing_anchor_and_a_page_without_a_place(tmp_path):
    """And nothing else: a strict build of the pages as they are has no warning."""
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "docs" / "extra.md").write_text("[gone](gone.md), [away](index.md#away)\n")
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\nsite_dir: site\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    warnings = [line for line in ran.stderr.splitlines() if line.startswith("WARNING")]
    assert ran.returncode == 1
    assert len(warnings) == 3, ran.stderr
    assert 'not included in the "nav"' in warnings[0]
    assert "gone.md" in warnings[1]
    assert "#away" in warnings[2]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_link_and_test_that_a_text_names_exists(text):
    page = text.read_text()
    paths = [ROOT / path for path in PATH.findall(page) if "NAME" not in path]
    paths += [text.parent / link for link in LINK.findall(page)]
    assert [str(path) for path in paths if not path.exists()] == []
    assert set(re.findall(r"`(test_\w+)`", page)) <= TESTS


def test_every_runbook_and_comment_that_names_a_page_names_one_that_exists():
    named = set()
    for folder in (*FOLDERS, "pyproject.toml", "Makefile"):
        for path in (ROOT / folder).rglob("*") if (ROOT / folder).is_dir() else [ROOT / folder]:
            if (
                path.suffix in (".py", ".yaml", ".yml", ".json", ".env", ".proto", ".sh", "")
                and path.is_file()
            ):
                named |= set(re.findall(r"docs/[\w/-]+\.md", path.read_text(errors="ignore")))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
