"""A Dockerfile as data: its stages, and what each instruction says."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    verb: str
    text: str

    def words(self) -> list[str]:
        return shlex.split(self.text)

    def command(self) -> list[str]:
        """The argv of the JSON form, of ENTRYPOINT ["a"] as of HEALTHCHECK --option CMD ["a"]."""
        return list(json.loads(self.text[self.text.index("[") :]))


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True)
class Dockerfile:
    arguments: dict[str, str]
    """Those before the first stage."""
    stages: dict[str, Stage]

    def chain(self, name: str) -> list[Stage]:
        """The stage after all that it stands on, first the one from an image."""
        stage = self.stages[name]
        return [*(self.chain(stage.base) if stage.base in self.stages else []), stage]

    def instructions(self, name: str) -> list[Instruction]:
        """What makes the image of a stage, its bases' first."""
        return [each for stage in self.chain(name) for each in stage.instructions]

    def last(self, name: str, verb: str) -> Instruction:
        return [each for each in self.instructions(name) if each.verb == verb][-1]

    def environment(self, name: str) -> dict[str, str]:
        return self._pairs(name, "ENV")

    def labels(self, name: str) -> dict[str, str]:
        return self._pairs(name, "LABEL")

    def _pairs(self, name: str, verb: str) -> dict[str, str]:
        variables: dict[str, str] = {}
        for instruction in self.instructions(name):
            if instruction.verb == verb:
                variables |= pairs(instruction)
        return variables

    def images(self) -> list[str]:
        """The images that stages are from, arguments filled in."""
        bases = [stage.base for stage in self.stages.values() if stage.base not in self.stages]
        return [re.sub(r"\$\{(\w+)\}", lambda match: self.arguments[match[1]], base) for base in bases]


def pairs(instruction: Instruction) -> dict[str, str]:
    """What ENV, LABEL or ARG sets."""
    return {name: value for name, _, value in (word.partition("=") for word in instruction.words())}


def parse(text: str) -> Dockerfile:
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    for instruction in _instructions(text):
        if instruction.verb == "FROM":
            base, _, name = instruction.words()
            stage = stages[name] = Stage(name, base)
        elif stage is not None:
            stage.instructions.append(instruction)
        else:
            arguments |= pairs(instruction)
    return Dockerfile(arguments, stages)


def read(path: Path) -> Dockerfile:
    return parse(path.read_text())


def _instructions(text: str) -> list[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(None, 1)) for line in whole.splitlines()]
