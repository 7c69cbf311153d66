"""Classes by index or name, wherever one is named, and what two of them share."""

from __future__ import annotations

import pytest

from convlens import errors
from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2
from convlens_client import ClassScore, LogProbability, Of
from convlens_client.contract import bounds, parameters
from convlens_client.requests.classes import CLASSES

TWINS = ["tench", "crane", "n02123045 tabby", "n02123159 tiger cat", "crane"]


@pytest.fixture
def twins(monkeypatch):
    monkeypatch.setattr("support.fake_service.LABELS", TWINS)


@pytest.fixture
def ids(monkeypatch):
    """Two of the classes have an identifier."""
    monkeypatch.setattr("support.fake_service.CLASS_IDS", ["", "n00000002", "n00000003", "", ""])


def asked(service):
    """The last request, beside the one for the model."""
    return service.requests[-1]


CALLS = {
    "a score": (lambda c, p: c.attribute(p, target=ClassScore("dots")), "AttributeRequest"),
    "scores": (
        lambda c, p: c.attribute_all(p, [("gradient", LogProbability("dots")), ("gradient", ClassScore(1))]),
        "AttributeRequest",
    ),
    "an attack's target": (lambda c, p: c.attack(p, target="dots"), "AttackRequest"),
    "an attack's labels": (lambda c, p: c.attack(p, labels=["dots"]), "AttackRequest"),
    "curve": (lambda c, p: c.robustness([p], ["dots"]), "MeasureRobustnessRequest"),
    "sanity": (lambda c, p: c.check_randomisation(p, target=ClassScore("dots")), "CheckRandomisationRequest"),
    "a job's targets": (lambda c, p: c.lbfgs_attack(p, targets=["dots"]), "SubmitJobRequest"),
    "a job's only target": (lambda c, p: c.lbfgs_attack(p, "dots"), "SubmitJobRequest"),
    "a job's labels": (lambda c, p: c.defence_attack([p], labels=["dots"]), "SubmitJobRequest"),
    "a patch": (lambda c, p: c.adversarial_patch([p], "dots"), "SubmitJobRequest"),
    "objectives": (lambda c, p: c.visualise([ClassScore("dots")]), "SubmitJobRequest"),
    "another network's": (lambda c, p: c.visualise([ClassScore("dots").of("other")]), "SubmitJobRequest"),
    "weighted objectives": (lambda c, p: c.visualise([{ClassScore("dots"): 2.0}]), "SubmitJobRequest"),
}


def by_index(call):
    """The same call with the index, as a function of client and pixels."""

    def other(client, pixels):
        class Numbered:
            def __getattr__(self, name):
                method = getattr(client, name)
                return lambda *args, **kwargs: method(*replaced(args), **replaced(kwargs))

        return call(Numbered(), pixels)

    return other


def replaced(value):
    if value == "dots" if isinstance(value, str) else False:
        return 1
    if isinstance(value, (ClassScore, LogProbability)):
        return type(value)(1)
    if isinstance(value, Of):
        return replaced(value.what).of(value.model)
    if isinstance(value, dict):
        return {replaced(key): replaced(item) for key, item in value.items()}
    return type(value)(replaced(item) for item in value) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize(("call", "kind"), CALLS.values(), ids=CALLS)
def test_a_name_means_the_same_as_its_index(client, service, pixels, call, kind):
    call(client, pixels)
    named = asked(service)
    assert type(named).__name__ == kind
    assert type(service.requests[0]).__name__ == "GetModelRequest"
    service.requests.clear()
    by_index(call)(client, pixels)
    (numbered,) = service.requests
    for request in (named, numbered):
        if kind == "SubmitJobRequest":
            request.request_id = ""
    assert named == numbered


def test_names_are_those_of_the_model_that_is_asked(client, service, pixels):
    client.attack(pixels, target="dots", model="patterns/7")
    assert (service.requests[0].model.name, service.requests[0].model.version) == ("patterns", 7)


def test_names_of_another_network_are_looked_up_there(client, service):
    client.visualise([{ClassScore("dots"): 1.0, ClassScore("dots").of("other/2"): 0.5, ClassScore(3): 2.0}])
    asked_for = [(one.model.name, one.model.version) for one in service.requests[:-1]]
    assert asked_for == [("", 0), ("other", 2)]
    terms = asked(service).feature_visualisation.objectives[0].terms
    assert [(term.target.class_score.index, term.weight, term.model.name) for term in terms] == [
        (1, 1, ""),
        (1, 0.5, "other"),
        (3, 2, ""),
    ]
    assert not terms[0].HasField("model")


def test_a_followed_call_shows_no_more_than_by_index(client, service, pixels):
    from convlens_client.requests import robustness

    named = list(client.follow(robustness([pixels], ["dots"])))
    assert named == list(client.follow(robustness([pixels], [1])))
    assert len(named) == 4


def test_a_break_in_either_step_is_not_noticed(client, service, pixels):
    service.failures = [errors.Unavailable("away"), errors.Unavailable("away")]
    job = client.lbfgs_attack(pixels, "dots")
    service.failures = [errors.Unavailable("away")]
    assert client.attack(pixels, target="dots").certificates
    assert len(service.jobs) == 1
    assert job.name in service.jobs


def test_a_name_that_two_classes_bear_is_refused_and_both_are_named(twins, client, service, pixels):
    for call in (
        lambda: client.get_model().class_index("Crane"),
        lambda: client.attribute(pixels, target=ClassScore("crane")),
        lambda: client.carlini_wagner(pixels, targets=["crane"]),
    ):
        with pytest.raises(InvalidArgument, match=r"'crane' \(1\), 'crane' \(4\)"):
            call()
    assert client.get_model().class_index("4") == 4
    assert {type(request).__name__ for request in service.requests} == {"GetModelRequest"}


def test_identifiers_of_wordnet_are_found_where_the_labels_have_them(twins, client, service, pixels):
    client.attack(pixels, target="n02123159")
    assert asked(service).targeted.index == 3


def test_identifiers_of_wordnet_are_found_beside_the_labels(ids, client, service, pixels, run, photo):
    client.attack(pixels, target="n00000002")
    assert asked(service).targeted.index == 1
    client.attribute(pixels, target=ClassScore("N00000003"))
    assert asked(service).attributions[0].target.class_score.index == 2
    assert run("saliency", photo, "--class", "n00000002").code == 0
    assert asked(service).attributions[0].target.class_score.index == 1
    with pytest.raises(InvalidArgument, match="n00000099"):
        client.attack(pixels, target="n00000099")


def test_the_command_line_names_both_too(twins, run, photo):
    for command in (("saliency", photo, "--class", "crane"), ("attack", photo, "--target", "crane")):
        answer = run(*command)
        assert (answer.code, "'crane' (1), 'crane' (4)" in answer.err) == (2, True)


def test_a_target_alone_says_that_names_are_looked_up_by_the_client():
    with pytest.raises(InvalidArgument, match="index = 'dots': must be an index"):
        ClassScore("dots").message()


def test_every_field_that_holds_a_class_may_be_named():
    """As the contract marks them, in the techniques of jobs; targets are classes of their own."""
    for field in job_pb2.SubmitJobRequest.DESCRIPTOR.oneofs_by_name["technique"].fields:
        marked = {n for n, p in parameters(field.message_type).items() if bounds(p.field).class_index}
        assert marked <= CLASSES
