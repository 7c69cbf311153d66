"""Writes rules.yaml and dashboard.json beside itself from deploy/monitoring/: `python generate.py`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "monitoring"
HEAD = """\
# Written by generate.py from deploy/monitoring/alerts.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: convlens
spec:
"""


def generated() -> dict[str, str]:
    """What the files should hold, by name."""
    lines = (SOURCE / "alerts.yaml").read_text().splitlines()
    rules = [f"  {line}".rstrip() for line in lines if not line.startswith("#")]
    return {
        "rules.yaml": HEAD + "\n".join(rules) + "\n",
        "dashboard.json": (SOURCE / "dashboard.json").read_text(),
    }


if __name__ == "__main__":
    for name, text in generated().items():
        (HERE / name).write_text(text)
