"""Run the benchmarks, or those that are named, print their tables, and write them to RESULTS.md."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from benchmarks import gradient_graph, serving, sizing

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = """# Results

Written by `make bench`: ratios of medians on the machine at hand, contestants interleaved in one run. Few
absolute times: they would say more about the machine than about the code.
"""
PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "gradients": gradient_graph.run,
    "serving": serving.run,
    "sizing": sizing.run,
}


def main(names: list[str]) -> None:
    """Sections of other parts stay in the file as they are."""
    if unknown := set(names) - set(PARTS):
        sys.exit(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    sections = {title(section): section for section in RESULTS.read_text().split("\n## ")[1:]}
    for name in names or PARTS:
        section = PARTS[name]().removeprefix("## ")
        print(f"## {section}\n")
        sections[title(section)] = section
    text = "\n\n".join([HEAD.strip(), *(f"## {section.strip()}" for section in sections.values())]) + "\n"
    RESULTS.write_text(text)


def title(section: str) -> str:
    """Its first line."""
    return section.partition("\n")[0]


if __name__ == "__main__":
    main(sys.argv[1:])
