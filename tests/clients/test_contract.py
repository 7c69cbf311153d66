"""What the client reads from the descriptors, the bounds and the comments of the protos."""

from __future__ import annotations

import inspect

import pytest

from convlens.errors import InvalidArgument
from convlens.v1 import adversarial_pb2, attack_pb2, attribution_pb2, job_pb2
from convlens_client import Client
from convlens_client.contract import arms, bounds, fill, parameters, takes, values, written

TECHNIQUES = {
    **arms(job_pb2.SubmitJobRequest.DESCRIPTOR),
    **arms(attribution_pb2.Attribution.DESCRIPTOR),
    **arms(attack_pb2.AttackRequest.DESCRIPTOR),
}


def help_of(message, name):
    return parameters(message.DESCRIPTOR)[name].help


def test_help_tells_range_and_default_as_the_bounds_have_them():
    assert help_of(job_pb2.Texture, "steps") == "Steps at each scale.  [1 to 10000; default: 300]"
    assert "[0 to 1; default: 8/255]" in help_of(attack_pb2.Fgsm, "epsilon")
    assert "[above 0 to 1; default: 0.02]" in help_of(job_pb2.Texture, "learning_rate")
    assert "[above 0 to 64]" in help_of(job_pb2.DeepDream, "step_size")
    assert help_of(attribution_pb2.Rise, "seed") == "Seed of the masks.  [default: 0]"
    assert help_of(job_pb2.Texture, "width") == "Width.  [32 to 2048]"


def test_help_repeats_no_default_of_a_comment():
    for message in TECHNIQUES.values():
        for parameter in parameters(message).values():
            if bounds(parameter.field).HasField("default"):
                sentence, _, facts = parameter.help.partition("[")
                assert "efault " not in sentence, parameter.help
                assert f"default: {written(bounds(parameter.field).default)}]" in facts


def test_a_message_of_parameters_is_taken_apart():
    names = parameters(job_pb2.MeasureReceptiveField.DESCRIPTOR)
    assert {"patch", "stride", "threshold", "k"} <= names.keys()
    assert "model" not in names
    technique = adversarial_pb2.ExpectationAttack()
    fill(technique, {"rotation": 45, "norm": "l2", "targets": 3})
    assert (technique.transforms.rotation, technique.norm, list(technique.targets)) == (45, 2, [3])


def test_layers_may_have_weights():
    technique = job_pb2.Texture()
    fill(technique, {"layers": {"a": 2, "b": 1}})
    assert (list(technique.layers), list(technique.weights)) == (["a", "b"], [2, 1])
    assert parameters(technique.DESCRIPTOR)["layers"].weighted
    assert not parameters(job_pb2.ExtractFeatures.DESCRIPTOR)["layers"].weighted


def test_a_number_of_layers_has_no_weights():
    request = attribution_pb2.CheckRandomisationRequest()
    known = parameters(request.DESCRIPTOR)
    assert not known["layers"].weighted
    assert known["weights"].choices == ("initialiser", "zero_mean", "own_mean")
    for spelling in ("own_mean", "own-mean"):
        fill(request, {"layers": 3, "weights": spelling})
        assert (request.layers, request.weights) == (3, attribution_pb2.RANDOM_WEIGHTS_OWN_MEAN)
    with pytest.raises(
        TypeError, match="CheckRandomisationRequest takes no 'wait', but layers, seed, weights"
    ):
        fill(request, {"wait": 3})


def test_choices_are_those_of_the_enum():
    assert values(attack_pb2.Norm.DESCRIPTOR) == {"linf": 1, "l2": 2}
    with pytest.raises(InvalidArgument, match="norm = 'l7': must be one of linf, l2"):
        fill(attack_pb2.Pgd(), {"norm": "l7"})


def test_parameters_of_one_name_have_one_type():
    """So that one option of a command serves all techniques of a call."""
    for request in (attribution_pb2.Attribution, attack_pb2.AttackRequest):
        types = {}
        for message in arms(request.DESCRIPTOR).values():
            for name, parameter in parameters(message).items():
                assert types.setdefault(name, parameter.type) is parameter.type


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ("texture", "steps: 'int | None' = None"),
        ("attribute", "sigma: 'float | None' = None"),
        ("attack", """norm: "Literal['linf', 'l2'] | None" = None"""),
        ("measure_receptive_field", "threshold: 'float | None' = None"),
        ("style_transfer", "layers: 'Mapping[str, float] | Sequence[str]' = ()"),
        ("deepdream", "request_id: 'str' = ''"),
    ],
)
def test_signatures_show_the_parameters(method, shown):
    assert shown in [str(each) for each in inspect.signature(getattr(Client, method)).parameters.values()]


def test_no_method_shows_what_only_the_server_sets():
    for method in (Client.extract_features, Client.train_style, Client.measure_receptive_field):
        assert not {"part", "shards", "images"} & inspect.signature(method).parameters.keys()


def test_an_unknown_parameter_of_a_job_is_a_type_error(client, pixels):
    with pytest.raises(TypeError, match=r"texture\(\) takes no 'stepz', but sample, .*steps.*seed"):
        client.texture(pixels, stepz=3)


def test_own_arguments_come_before_parameters():
    @takes({"bim": attack_pb2.Bim.DESCRIPTOR}, without=["epsilon"])
    def function(steps: str, **parameters: object) -> None: ...

    assert list(function.parameters) == ["step_size"]
    assert list(inspect.signature(function).parameters) == ["steps", "step_size"]
