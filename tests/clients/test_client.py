"""Both clients ask the same questions and make the same of the answers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from convlens.errors import InvalidArgument
from convlens.v1 import job_pb2, target_pb2
from convlens_client import AsyncClient, ClassScore, Client, LogProbability, Neuron
from convlens_client.channel import credentials


def test_models_come_over_all_pages(client, service):
    assert [model.version for model in client.list_models()] == [1, 2]
    assert [request.page_token for request in service.requests] == ["", "2"]


def test_a_model_has_its_layers(client, service):
    model = client.get_model("patterns/7")
    assert service.requests[0].model.version == 7
    assert model.layers[0].shape == (8, 96, 96)
    assert model.layers[0].has_weights


def test_filters_are_one_array(client):
    assert client.filters("features.0").shape == (8, 3, 3, 3)


def test_classify_answers_for_each_image(client, service, pixels):
    answers = client.classify([pixels, pixels], top_k=3)
    assert [answer.top.label for answer in answers] == ["wide checks"] * 2
    assert service.requests[0].top_k == 3
    assert client.classify(pixels)[0].top.probability == 0.75


def test_what_is_left_out_is_absent_from_the_request(client, service, pixels):
    client.classify(pixels)
    request = service.requests[0]
    assert not request.HasField("top_k")
    assert not request.images[0].HasField("resize")
    assert request.model.name == ""


def test_activations_come_by_layer(client, pixels):
    values = client.activations([pixels, pixels], ["a", "b"])
    assert list(values) == ["a", "b"]
    assert values["b"].shape == (2, 9, 700, 50)
    assert (values["b"] == 7).all()
    assert list(client.activations(pixels, "a")) == ["a"]


def test_an_attribution_has_values_and_a_map(client, service, pixels):
    attribution = client.attribute(pixels, "guided_backprop", Neuron("features.0", 3, 1, 2))
    assert attribution.values == (0.5,)
    assert attribution.map.shape == (1, 3, 8, 8)
    asked = service.requests[0].attributions[0]
    assert asked.WhichOneof("technique") == "guided_backprop"
    assert asked.target.neuron == target_pb2.Neuron(layer="features.0", channel=3, y=1, x=2)


def test_several_attributions_stay_in_order(client, service, pixels):
    asked = [("gradient", ClassScore()), ("deconvnet", LogProbability(1)), ("gradient", ClassScore(3))]
    attributions = client.attribute_all(pixels, asked)
    assert [attribution.map.flat[0] for attribution in attributions] == [0, 1, 2]
    targets = [item.target for item in service.requests[0].attributions]
    assert [target.WhichOneof("target") for target in targets] == [
        "class_score",
        "log_probability",
        "class_score",
    ]
    assert not targets[0].class_score.HasField("index")
    assert targets[1].log_probability.index == 1


def test_an_unknown_technique_is_refused_before_it_is_sent(client, service, pixels):
    with pytest.raises(InvalidArgument, match="guided_backprop"):
        client.attribute(pixels, "grad")
    assert not service.requests


def test_an_attack_comes_with_certificate_and_three_pictures(client, service, pixels):
    outcome = client.attack(pixels, epsilon=0.5, target=0)
    assert outcome.certificates[0].before.label == "wide checks"
    assert [outcome.original.flat[0], outcome.gradient_sign.flat[0], outcome.adversarial.flat[0]] == [
        0,
        0.5,
        1,
    ]
    assert service.requests[0].WhichOneof("goal") == "targeted"
    assert service.requests[0].fgsm.epsilon == 0.5


def test_an_attack_without_target_flees_the_labels(client, service, pixels):
    client.attack(pixels, labels=[3])
    assert list(service.requests[0].untargeted.labels) == [3]
    assert not service.requests[0].fgsm.HasField("epsilon")


def test_any_technique_can_be_submitted_by_its_message(client, service):
    client.submit(job_pb2.DeepDream(steps=3), model="patterns", seed=5, request_id="abc")
    request = service.requests[0]
    assert (request.deepdream.steps, request.seed, request.request_id) == (3, 5, "abc")
    with pytest.raises(InvalidArgument, match=r"Neuron.*deepdream"):
        client.submit(target_pb2.Neuron())


def test_a_priority_that_there_is_not_is_named(client):
    with pytest.raises(InvalidArgument, match="priority = 'soon': must be one of NORMAL, HIGH, LOW"):
        client.submit(job_pb2.DeepDream(), priority="soon")


@pytest.mark.parametrize("model", ["a/b", "a/", "a/1/2"])
def test_a_model_reference_that_makes_no_sense_is_refused(client, model):
    with pytest.raises(InvalidArgument, match="name/version"):
        client.get_model(model)


@pytest.mark.parametrize(
    ("text", "index"), [("2", 2), ("dots", 1), ("Stripes ", 0), ("fine", 3), ("wide checks", 2)]
)
def test_a_class_is_found_by_index_label_or_part(client, text, index):
    assert client.get_model().class_index(text) == index


@pytest.mark.parametrize(("text", "near"), [("checks", "fine checks"), ("dotz", "dots"), ("zebra", "none")])
def test_a_class_that_is_not_clear_is_refused_with_near_ones(client, text, near):
    with pytest.raises(InvalidArgument, match=near):
        client.get_model().class_index(text)


def test_both_clients_have_the_same_methods_with_the_same_arguments():
    def methods(kind):
        public = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        return {
            name: str(inspect.signature(member).replace(return_annotation=None))
            for name, member in public.items()
        }

    assert methods(Client) == methods(AsyncClient)


def test_help_shows_arguments_and_docstring(address):
    with Client(address) as client:
        signature = inspect.signature(client.classify)
        assert str(signature).startswith("(images:")
        assert signature.return_annotation == "tuple[Classification, ...]"
        assert inspect.signature(client.deepdream).return_annotation == "Operation"
        assert "best classes" in client.classify.__doc__


def test_the_address_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("CONVLENS_SERVER", "elsewhere:1")
    with Client() as client:
        assert client.address == "elsewhere:1"


@pytest.mark.parametrize(("setting", "secure"), [("", False), ("0", False), ("1", True)])
def test_tls_comes_from_the_environment(monkeypatch, setting, secure):
    monkeypatch.setenv("CONVLENS_TLS", setting)
    assert (credentials() is not None) is secure
    assert credentials(False) is None


@pytest.fixture
def pems(tmp_path, monkeypatch):
    """Files of a certificate and its key, and no variables that name others."""
    for name in ("CONVLENS_TLS", "CONVLENS_CLIENT_CERTIFICATE", "CONVLENS_CLIENT_KEY"):
        monkeypatch.delenv(name, raising=False)
    paths = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key")}
    for name, path in paths.items():
        path.write_text(name)
    return paths


def test_a_certificate_is_shown_by_argument_or_variable(pems, monkeypatch):
    shown = []
    monkeypatch.setattr("grpc.ssl_channel_credentials", lambda *files: shown.append(files) or "secret")
    assert credentials(**pems) == "secret"
    assert credentials(True, pems["certificate"], pems["key"]) == "secret"
    for name, path in pems.items():
        monkeypatch.setenv(f"CONVLENS_CLIENT_{name.upper()}", str(path))
    assert credentials(True) == "secret"
    assert shown == [(None, b"key", b"certificate")] * 3


def test_a_certificate_without_its_key_or_without_tls_is_refused(pems):
    with pytest.raises(InvalidArgument, match=r"certificate\.pem.*with key \(CONVLENS_CLIENT_KEY\)"):
        credentials(certificate=pems["certificate"])
    with pytest.raises(InvalidArgument, match=r"certificate = .*left out without TLS"):
        credentials(False, **pems)


def test_roots_that_cannot_be_read_are_named(monkeypatch, tmp_path):
    with pytest.raises(InvalidArgument, match=r"roots\.pem"):
        credentials(tmp_path / "roots.pem")


def test_arrays_arrive_as_their_own_memory(client):
    kernel = client.filters()
    kernel += 1
    np.testing.assert_array_equal(kernel.reshape(-1)[:3], [1, 2, 3])
