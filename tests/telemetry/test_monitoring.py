"""The dashboard and the alert rules, against what a server and a worker really tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support.front_end import FrontEnd
from support.job_plane import dream
from support.redis_server import RedisServer, free_port
from support.scraping import families, text
from support.tiny_model import NAME
from support.worker_process import WorkerProcess

from convlens.v1 import job_pb2_grpc
from convlens_client import Client
from convlens_client.calls import Method, Unary
from convlens_client.from_proto import snapshot
from convlens_workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
GROUPS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
QUERIES = {name: rule["expr"] for name, rule in ALERTS.items()} | {
    f"{title} {target['refId']}": target["expr"]
    for title, panel in PANELS.items()
    for target in panel["targets"]
}

WORDS = {"and", "or", "unless", "by", "on", "ignoring", "without", "bool", "offset"}
FROM_PROMETHEUS = {"instance", "job", "le"}
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def metrics_in(query: str) -> set[str]:
    """Names of metrics in a query."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", GROUPING.sub("", query))
    found = re.findall(r"(?<![\w$])([a-zA-Z_:][\w:]*)(\s*\()?", bare)
    return {name for name, call in found if not call} - WORDS


def labels_in(query: str) -> set[str]:
    """Names of labels in a query."""
    matchers = {
        name for part in re.findall(r"\{([^}]*)\}", query) for name in re.findall(r"(\w+)\s*[=!]", part)
    }
    groupings = {name.strip() for part in GROUPING.findall(query) for name in part.split(",")}
    return (matchers | groupings) - FROM_PROMETHEUS


@pytest.fixture(scope="module")
def told(
    shared_redis: RedisServer, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[set[str], dict[str, set[str]]]]:
    """What a server and a worker that have done a job tell: names, and the labels of each."""
    shared_redis.flush()
    folder = tmp_path_factory.mktemp("plane")
    places = {"redis": shared_redis.url, "artifacts": str(folder / "artifacts"), "models": tiny_models}
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    worker = WorkerProcess(WorkerSettings(**places, device="cpu", metrics_listen=addresses[0]), folder)
    try:
        with FrontEnd(**places, warm="[]", metrics_listen=addresses[1]) as server:
            worker.ready()
            with Client(server.address) as client:
                submit = Method(job_pb2_grpc.JobServiceStub, "SubmitJob")
                job = client.run(Unary(submit, dream(2), snapshot))
                assert client.operation(job.name).wait(60).state == "SUCCEEDED"
                assert client.get_model(NAME).name == NAME
            names = families(addresses[0]) | families(addresses[1])
            labels: dict[str, set[str]] = {}
            for address in addresses:
                for family in text_string_to_metric_families(text(address)):
                    for sample in family.samples:
                        labels.setdefault(sample.name, set()).update(sample.labels)
            yield names, labels
    finally:
        worker.end()


@pytest.mark.parametrize("name", QUERIES)
def test_every_metric_and_label_of_a_query_is_really_told(name: str, told: Any) -> None:
    names, labels = told
    query = QUERIES[name]
    asked = metrics_in(query)
    assert asked
    assert asked <= names
    assert labels_in(query) <= set().union(*(labels.get(metric, set()) for metric in asked))


def test_names_are_found_in_queries() -> None:
    query = 'sum by (le, a) (rate(x_bucket{b=~"c|d",e!="f"}[5m])) / y > 0.1 and on (g) absent(z:w)'
    assert metrics_in(query) == {"x_bucket", "y", "z:w"}
    assert labels_in(query) == {"a", "b", "e", "g"}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_it_is_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert {"summary", "description", "runbook_url"} <= rule["annotations"].keys()
    assert rule["labels"]["severity"] in ("critical", "warning")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor == name.lower()
    assert anchor in {heading.lower() for heading in headings}


def test_every_alert_has_its_own_name_and_every_explained_one_exists() -> None:
    rules = [rule for group in GROUPS for rule in group["rules"]]
    assert len(ALERTS) == len(rules)
    page = (ROOT / "docs/guides/alerts.md").read_text()
    assert set(re.findall(r"^### (ConvLens\w+)$", page, re.MULTILINE)) == set(ALERTS)


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    panels = DASHBOARD["panels"]
    assert DASHBOARD["uid"] == "convlens"
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(PANELS) == sum(panel["type"] != "row" for panel in panels)
    assert all(panel["description"] for panel in PANELS.values())
    (source,) = (item for item in DASHBOARD["templating"]["list"] if item["type"] == "datasource")
    for panel in PANELS.values():
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    variables = {item["name"] for item in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) <= variables


def test_panels_do_not_lie_upon_each_other() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        here = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not here & cells, panel["title"]
        cells |= here
