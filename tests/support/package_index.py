"""What a package index offers other machines: names and tags of files; nothing is downloaded."""

from __future__ import annotations

import json
import re
import shlex
import ssl
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

from packaging import tags
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

PROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
GLIBC: Final = 28
"""Minor version of the oldest glibc, 2.28, of Linux machines that are asked for."""
MACOS: Final = (14, 0)
FORMATS: Final = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"


class NoIndex(Exception):
    """No package index answers."""


class Machine(NamedTuple):
    """A Python on a kind of machine."""

    python: tuple[int, int]
    system: str
    processor: str

    def __str__(self) -> str:
        return f"Python {self.python[0]}.{self.python[1]} on {self.system} {self.processor}"

    def markers(self) -> dict[str, str]:
        """What the conditions of requirements are decided by."""
        version = "{}.{}".format(*self.python)
        return {
            "python_version": version,
            "python_full_version": f"{version}.0",
            "implementation_name": "cpython",
            "implementation_version": f"{version}.0",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "sys_platform": self.system.lower(),
            "platform_system": self.system,
            "platform_machine": self.processor,
            "platform_release": "",
            "platform_version": "",
        }

    def tags(self) -> frozenset[tags.Tag]:
        """The tags of the wheels that fit."""
        if self.system == "Darwin":
            platforms = list(tags.mac_platforms(MACOS, self.processor))
        else:
            versions = [*(f"_2_{minor}" for minor in range(17, GLIBC + 1)), "2014"]
            platforms = [f"manylinux{version}_{self.processor}" for version in versions]
        name = "cp{}{}".format(*self.python)
        return frozenset(
            [
                *tags.cpython_tags(self.python, [name], platforms),
                *tags.compatible_tags(self.python, name, platforms),
            ]
        )


MACHINES: Final = [
    Machine((3, minor), system, processor)
    for minor in (11, 12, 13, 14)
    for system, processor in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
]


class File(NamedTuple):
    """A file of a package; an archive of sources has no tags."""

    name: str
    version: Version
    tags: frozenset[tags.Tag]
    python: SpecifierSet


def requirements(extra: str, machine: Machine) -> dict[str, SpecifierSet]:
    """All that an extra of this project brings, with the versions allowed.

    What the packages require follows from those that are installed here: of what other machines need in
    addition, only the packages themselves are known.
    """
    found: dict[str, SpecifierSet] = {}
    seen: set[tuple[str, str]] = set()
    ahead = [Requirement(f"convlens[{extra}]")]
    while ahead:
        required = ahead.pop()
        name = canonicalize_name(required.name)
        found[name] = found.get(name, SpecifierSet()) & required.specifier
        for wanted in {"", *required.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                ahead += _asked(name, wanted, machine)
    del found["convlens"]
    return found


def _asked(name: str, extra: str, machine: Machine) -> Iterator[Requirement]:
    """What a package requires there for one of its extras, "" standing for none."""
    for line in _requires(name, extra):
        required = Requirement(line)
        if not required.marker or required.marker.evaluate({**machine.markers(), "extra": extra}):
            yield required


def _requires(name: str, extra: str) -> list[str]:
    if name == "convlens":  # As it is now, rather than as it was when it was installed.
        project = tomllib.loads(PROJECT.read_text())["project"]
        return list(project["optional-dependencies"][extra] if extra else project["dependencies"])
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


class Index:
    """The package index that pip is configured to ask; remembers what it has said."""

    def __init__(self) -> None:
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        ).stdout
        # Later lines, of the environment, override those of files.
        pairs = re.findall(r"^[^=]*\.([a-z-]+)=(.*)$", listed, re.MULTILINE)
        settings = {name: " ".join(shlex.split(value)) for name, value in pairs}
        first = settings.get("index-url", "https://pypi.org/simple")
        urls = [first, *settings.get("extra-index-url", "").split()]
        self._urls = [url.rstrip("/") for url in urls if url.startswith("http")]
        self._context = ssl.create_default_context(cafile=settings.get("cert"))

    def files(self, names: Collection[str]) -> Mapping[str, list[File]]:
        """What there is of each package, without what was yanked. Raises NoIndex."""
        with ThreadPoolExecutor(8) as threads:
            return dict(zip(names, threads.map(self._files, names), strict=True))

    def _files(self, name: str) -> list[File]:
        found: list[File] = []
        for url in self._urls:
            for entry in self._entries(f"{url}/{name}/"):
                if not entry.get("yanked") and (file := _file(entry)):
                    found.append(file)
        return found

    def _entries(self, url: str) -> list[dict[str, Any]]:
        request = urllib.request.Request(url, headers={"Accept": FORMATS})
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._context) as reply:
                kind, body = reply.headers.get_content_type(), reply.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise NoIndex(f"{error.code} {error.reason}") from error
        except OSError as error:
            raise NoIndex(str(error)) from error
        if kind.endswith("json"):
            entries: list[dict[str, Any]] = json.loads(body)["files"]
            return entries
        return list(_anchors(body.decode()))


def _anchors(page: str) -> Iterator[dict[str, Any]]:
    """The files of a page of the older form of the interface."""
    for attributes, text in re.findall(r"<a\s([^>]*)>([^<]*)</a>", page):
        python = re.search(r'data-requires-python="([^"]*)"', attributes)
        yield {
            "filename": text.strip(),
            "yanked": "data-yanked" in attributes,
            "requires-python": python and python[1].replace("&gt;", ">").replace("&lt;", "<"),
        }


def _file(entry: Mapping[str, Any]) -> File | None:
    """A wheel or an archive of sources; None for what is neither."""
    name = entry["filename"]
    try:
        python = SpecifierSet(entry.get("requires-python") or "")
        if name.endswith(".whl"):
            _, version, _, fitting = parse_wheel_filename(name)
            return File(name, version, fitting, python)
        return File(name, parse_sdist_filename(name)[1], frozenset(), python)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidSpecifier):  # As very old ones may be.
        return None


def taken(files: Collection[File], allowed: SpecifierSet, machine: Machine) -> File | None:
    """What pip installs there: of the newest version that fits, a wheel, else sources; None for nothing."""
    fitting = machine.tags()
    version = "{}.{}.0".format(*machine.python)
    candidates = [
        file
        for file in files
        if file.version in allowed
        and file.python.contains(version)
        and (not file.tags or file.tags & fitting)
        and not file.version.is_prerelease
    ]
    return max(candidates, key=lambda file: (file.version, bool(file.tags)), default=None)
