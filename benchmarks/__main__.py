"""Run every benchmark, print its table, and write them to RESULTS.md."""

from __future__ import annotations

from pathlib import Path

from benchmarks import gradient_graph

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = """# Results

Written by `make bench`: ratios of medians on the machine at hand, contestants interleaved in one run. No
absolute times: they would say more about the machine than about the code.
"""


def main() -> None:
    sections = [gradient_graph.run()]
    text = "\n\n".join([HEAD.strip(), *sections]) + "\n"
    print(text)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
