"""More images than fit a call are asked for in several, and come back as one answer."""

from __future__ import annotations

import numpy as np
import pytest

from convlens import errors
from convlens_client.requests import parts

COUNT = 150
SIZES = [64, 64, 22]


@pytest.fixture
def many():
    """150 pictures, each of a brightness of its own."""
    return [np.full((8, 8, 3), number, np.uint8) for number in range(COUNT)]


def sizes(service):
    return [len(request.images) for request in service.requests]


def test_a_call_takes_as_many_images_as_the_contract_says(client, service, many):
    assert len(client.classify(many)) == COUNT
    assert sizes(service) == SIZES
    sent = [image.tensor.data[0] for request in service.requests for image in request.images]
    assert sent == list(range(COUNT))


def test_arrays_are_put_together_in_order(client, service, many):
    values = client.activations(many[:70], ["a", "b"], top=2)
    assert values["b"].shape[0] == 70
    assert values["a.channels"].shape == (70, 2)
    service.requests.clear()
    assert len(client.unit_patterns(many, "a", 3)) == COUNT
    attribution = client.attribute(many, "gradient", quality=True)
    assert attribution.map.shape == (COUNT, 3, 8, 8)
    assert {len(attribution.values), len(attribution.insertion), len(attribution.class_indices)} == {COUNT}
    both = client.attribute_all(many, [("gradient", None), ("grad_cam", None)])
    assert [each.map.shape[:2] for each in both] == [(COUNT, 3), (COUNT, 1)]
    assert sizes(service) == SIZES * 3


def test_labels_go_with_their_images(client, service, many):
    outcome = client.attack(many, labels=[number % 4 for number in range(COUNT)])
    assert (len(outcome.certificates), len(outcome.adversarial)) == (COUNT, COUNT)
    for request in service.requests:
        expected = [image.tensor.data[0] % 4 for image in request.images]
        assert list(request.untargeted.labels) == expected


def test_names_of_classes_and_many_images_go_together(client, service, many):
    client.attack(many, target="dots")
    assert [request.targeted.index for request in service.requests[1:]] == [1, 1, 1]


def test_requests_keep_below_the_size_that_a_server_takes(client, service, many, monkeypatch):
    monkeypatch.setattr(parts, "LARGEST", 3 * (192 + 40))
    assert len(client.classify(many[:10])) == 10
    assert sizes(service) == [3, 3, 3, 1]
    monkeypatch.setattr(parts, "LARGEST", 1)
    service.requests.clear()
    client.classify(many[:3])
    assert sizes(service) == [1, 1, 1]


def test_errors_count_the_images_through_all_calls(client, service, many):
    def refuse(request, context):
        service.requests.append(request)
        if len(service.requests) == 2:
            error = errors.InvalidArgument.of("images[5].encoded", "x", "a picture")
            context.abort_with_status(errors_status(error))

    service._note = refuse
    with pytest.raises(errors.InvalidArgument, match=r"^images\[69\]\.encoded = 'x'") as caught:
        client.classify(many)
    assert caught.value.field == "images[69].encoded"


def errors_status(error):
    from grpc_status import rpc_status

    return rpc_status.to_status(errors.to_status(error))


def test_a_broken_call_is_repeated_alone(client, service, many):
    service.failures = [errors.Unavailable("away")]
    assert len(client.classify(many)) == COUNT
    assert sizes(service) == [64, *SIZES]


def test_each_call_has_the_clients_timeout(client, service, many):
    from time import sleep

    note = service._note
    service._note = lambda request, context: (sleep(0.3), note(request, context))
    assert len(client.within(0.8).classify(many)) == COUNT


def test_pictures_of_several_sizes_are_not_mixed(client, service, many):
    answers = [np.zeros((2, 3, 4, 4)), np.zeros((1, 3, 5, 4))]
    with pytest.raises(errors.InvalidArgument, match=r"4 x 4 and 5 x 4 pixels.*of one size"):
        parts.joined(answers)
