"""Images without a container engine: a Dockerfile's own commands, run at their own paths in root folders.

A chroot here is a mount namespace whose root is a folder. It has, read-only, what a base image would bring
and nothing else: no sources, no environment. The base is this machine's system (/usr, /lib, the installation
of this interpreter as /usr/local), or a Debian that debootstrap has made. That is what `docker build` and
`docker run --read-only --user` do, less their isolation of processes and network.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.dockerfile import Dockerfile, pairs

MACHINE = Path("/")
SYSTEM = ("bin", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")
PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
"""Of the interpreter: in the chroot there is pip alone, as in the base image."""
PASSED = re.compile(r"PIP_.*|.*_PROXY|.*_proxy")
"""What builds get from outside: where packages come from, as build arguments would say it."""
DEBIAN = ("bookworm", "python3,python3-pip,python3-venv,python-is-python3")
"""The release that has the images' Python, and what it needs beside the minimum to be their base."""


@functools.cache
def needs_chroots() -> None:
    """Skip where there is no root or no mount namespace."""
    if os.geteuid() != 0:
        pytest.skip("running images' commands at their own paths needs root")
    if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "x", "/mnt"], check=False).returncode:
        pytest.skip("no mount namespaces here: images' commands cannot run at their own paths")


def needs_python(python: str) -> None:
    """Skip where this interpreter is not what the base image has."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != python:
        pytest.skip(f"the images have Python {python}, these tests run on {here}")


def debian(folder: Path) -> Path:
    """A minimal Debian in the folder; skips where it cannot be made."""
    if not shutil.which("debootstrap"):
        pytest.skip("there is no debootstrap to make a Debian with")
    release, packages = DEBIAN
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, folder]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"debootstrap cannot make a Debian here: {done.stdout[-300:]}{done.stderr[-300:]}")
    return folder


class Chroots:
    """The stages of a Dockerfile, each built once, in folders under `folder`.

    Args:
        system: root folder of a Debian that is the base; default: this machine is.
    """

    def __init__(
        self,
        folder: Path,
        dockerfile: Dockerfile,
        context: Path,
        arguments: Mapping[str, str],
        system: Path = MACHINE,
    ) -> None:
        self._folder, self._dockerfile, self._context = folder, dockerfile, context
        self._arguments, self._system = arguments, system
        self._built: set[str] = set()
        self._passed = {name: value for name, value in os.environ.items() if PASSED.fullmatch(name)}

    def root(self, stage: str) -> Path:
        """The root folder of a stage, after all its commands have run."""
        root = self._folder / stage
        if stage in self._built:
            return root
        base = self._dockerfile.stages[stage].base
        if base in self._dockerfile.stages:
            subprocess.run(["cp", "--archive", self.root(base), root], check=True)
        else:
            self._empty(root)
        self._run_stage(stage, root)
        self._built.add(stage)
        return root

    def start(
        self,
        stage: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        volumes: Mapping[str, Path],
        **options: object,
    ) -> subprocess.Popen[str]:
        """Run a command as the image's user, its root read-only but for /tmp and the volumes."""
        user, _, group = self._dockerfile.last(stage, "USER").text.partition(":")
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        variables = self._dockerfile.environment(stage) | environment
        command = [*become, "env", "-i", *_pairs(variables), *argv]
        root = self.root(stage)
        script = [
            *self._mounts(root),
            *_read_only(root, volumes),
            f"exec chroot {root} {shlex.join(command)}",
        ]
        return subprocess.Popen(_isolated(script), text=True, **options)  # type: ignore[call-overload,no-any-return]

    def call(
        self, stage: str, argv: Sequence[str], environment: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `start` does."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with self.start(stage, argv, environment, {}, **pipes) as process:
            output, _ = process.communicate(timeout=120)
        return subprocess.CompletedProcess(argv, process.returncode, output)

    def _empty(self, root: Path) -> None:
        """What a base image has, apart from what is mounted."""
        for name in ("dev", "packages", "proc", "root", "tmp", "var/lib"):
            (root / name).mkdir(parents=True)
        subprocess.run(["cp", "--archive", self._system / "etc", root / "etc"], check=True)
        for name in SYSTEM:
            system = self._system / name
            if system.is_symlink():
                (root / name).symlink_to(system.readlink())
            elif system.is_dir():
                (root / name).mkdir()
        if self._system != MACHINE:
            return
        (pip,) = Path(sys.base_prefix, PACKAGES).parent.glob("ensurepip/_bundled/pip-*.whl")
        shutil.unpack_archive(pip, root / "packages", "zip")
        self._run(root, "/", {"PATH": "/usr/sbin:/usr/bin"}, "ldconfig")  # For a libpython in /usr/local/lib.

    def _run_stage(self, stage: str, root: Path) -> None:
        place, known = "/", {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}
        for chained in self._dockerfile.chain(stage):
            own = chained.name == stage
            for instruction in chained.instructions:
                if instruction.verb == "WORKDIR":
                    place = instruction.text
                    _inside(root, place).mkdir(parents=True, exist_ok=True)
                elif instruction.verb == "ENV":
                    known |= pairs(instruction)
                elif instruction.verb == "ARG" and own:
                    known |= {
                        name: self._arguments.get(name, value) for name, value in pairs(instruction).items()
                    }
                elif instruction.verb == "COPY" and own:
                    self._copy(instruction.words(), root, place)
                elif instruction.verb == "RUN" and own:
                    self._run(root, place, known, instruction.text)

    def _run(self, root: Path, place: str, known: Mapping[str, str], text: str) -> None:
        variables = self._passed | known
        command = shlex.join(["env", "-i", "-C", place, *_pairs(variables), "/bin/sh", "-c", text])
        script = [*self._mounts(root), *self._lendings(root), f"exec chroot {root} {command}"]
        done = subprocess.run(_isolated(script), text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"RUN {text}\n{done.stdout}{done.stderr}"

    def _copy(self, words: list[str], root: Path, place: str) -> None:
        stage = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        source = self.root(stage) if stage else self._context
        *names, target = words
        to = _inside(root, str(Path(place, target)))
        for name in names:
            path = source / name.lstrip("/")
            into = to / path.name if path.is_file() and (len(names) > 1 or target.endswith("/")) else to
            into.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                ignored = () if stage else ("__pycache__", "*.egg-info")
                shutil.copytree(
                    path, into, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*ignored)
                )
            else:
                shutil.copy2(path, into)

    def _mounts(self, root: Path) -> list[str]:
        """The base's system, read-only, under the root."""
        own = (name for name in SYSTEM if (root / name).is_dir() and not (root / name).is_symlink())
        folders = {name: str(self._system / name) for name in own}
        if self._system == MACHINE:
            folders |= {"usr/local": sys.base_prefix, f"usr/local/{PACKAGES}": f"{root}/packages"}
        lines = [line for inside, outside in folders.items() for line in _bound(outside, f"{root}/{inside}")]
        return [*lines, *(f"mount --rbind /{name} {root}/{name}" for name in ("dev", "proc"))]

    def _lendings(self, root: Path) -> list[str]:
        """Files and folders of this machine that pip's settings name, where that is not the base anyway."""
        lines: list[str] = []
        words = ["/etc/pip.conf", *(word for value in self._passed.values() for word in value.split())]
        for path in (Path(word) for word in words if word.startswith("/") and self._system != MACHINE):
            if not path.exists():
                continue
            below = self._system if path.parts[1] in SYSTEM else root
            place = _inside(below, str(path))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(exist_ok=True) if path.is_dir() else place.touch()
            lines += _bound(path, _inside(root, str(path)))
        return lines


def _bound(outside: object, inside: object) -> list[str]:
    return [f"mount --bind {outside} {inside}", f"mount -o remount,ro,bind {inside}"]


def _pairs(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _isolated(script: list[str]) -> list[str]:
    return ["unshare", "--mount", "--propagation=private", "/bin/sh", "-ec", "\n".join(script)]


def _read_only(root: Path, volumes: Mapping[str, Path]) -> list[str]:
    """Afterwards the root itself is read-only; /tmp is empty, and volumes are where they belong."""
    lines = [f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp"]
    for inside, outside in volumes.items():
        lines.append(f"mount --bind {outside} {_inside(root, inside)}")
    return [f"mount --rbind {root} {root}", f"mount -o remount,ro,bind {root}", *lines]
