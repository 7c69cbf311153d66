"""What can be asked: one function a question, which builds the request and reads the reply, without any I/O.

`Client` and `AsyncClient` have a method for each, with the same arguments. A model is a name or
"name/version"; empty means the embedded default. Arguments left at None take the server's defaults, which the
protos state.
All methods may raise the errors of `convlens.errors`; a bad value is InvalidArgument and names its field.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf.message import Message

from convlens.errors import InvalidArgument
from convlens.v1 import (
    attack_pb2,
    attack_pb2_grpc,
    attribution_pb2,
    attribution_pb2_grpc,
    inspection_pb2,
    inspection_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    target_pb2,
)
from convlens_client.calls import Call, Method, Pages, ReadArtifact, Tensors, Unary, Wait, Watch
from convlens_client.images import ImageLike, Images, ResizeLike, to_image, to_images
from convlens_client.results import (
    Array,
    AttackOutcome,
    Attribution,
    Classification,
    JobMetadata,
    Model,
    Snapshot,
    freeze,
    snapshot,
)

_Models = model_pb2_grpc.ModelServiceStub
_Inspection = inspection_pb2_grpc.InspectionServiceStub
_Attribution = attribution_pb2_grpc.AttributionServiceStub
_Operations = operations_pb2_grpc.OperationsStub

Technique = Literal["gradient", "guided_backprop", "deconvnet"]
TECHNIQUES: dict[str, Message] = {
    "gradient": attribution_pb2.Gradient(),
    "guided_backprop": attribution_pb2.GuidedBackprop(),
    "deconvnet": attribution_pb2.Deconvnet(),
}


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Logit of a class; by default of the class that the model predicts for each image."""

    index: int | None = None

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(class_score=target_pb2.ClassTarget(index=self.index))


@dataclass(frozen=True, slots=True)
class LogProbability:
    """log P(class) after the softmax; by default of the class that the model predicts for each image."""

    index: int | None = None

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(log_probability=target_pb2.ClassTarget(index=self.index))


@dataclass(frozen=True, slots=True)
class Neuron:
    """Value of one unit: channel and position from 0; y and x are 0 where the layer has no spatial axes."""

    layer: str
    channel: int
    y: int = 0
    x: int = 0

    def message(self) -> target_pb2.Target:
        """As the request carries it."""
        return target_pb2.Target(
            neuron=target_pb2.Neuron(layer=self.layer, channel=self.channel, y=self.y, x=self.x)
        )


Target = ClassScore | LogProbability | Neuron


def model_ref(model: str) -> model_pb2.ModelRef:
    """The reference for "name", "name/version" or "" (the default)."""
    name, slash, version = model.partition("/")
    if slash and not version.isdecimal():
        raise InvalidArgument.of("model", model, "a name or name/version, the version a number")
    return model_pb2.ModelRef(name=name, version=int(version) if slash else None)


def list_models(*, all_versions: bool = False) -> Call[tuple[Model, ...]]:
    """The models of the repository, without their layers; only the newest versions unless `all_versions`."""
    request = model_pb2.ListModelsRequest(all_versions=all_versions)
    return Pages(Method(_Models, "ListModels"), request, "models", freeze)


def get_model(model: str = "") -> Call[Model]:
    """One model with its layers and labels."""
    request = model_pb2.GetModelRequest(model=model_ref(model))
    return Unary(Method(_Models, "GetModel"), request, lambda reply: freeze(reply.model))


def filters(layer: str = "", *, model: str = "") -> Call[Array]:
    """Kernel of a layer, (out, in / groups, kh, kw) or (out, in); of the first convolution by default."""
    request = model_pb2.GetFiltersRequest(model=model_ref(model), layer=layer)
    return Tensors(Method(_Models, "GetFilters"), request, lambda _, tensors: _only(tensors))


def classify(
    images: Images, *, top_k: int | None = None, model: str = "", resize: ResizeLike | None = None
) -> Call[tuple[Classification, ...]]:
    """The `top_k` best classes of each image, best first."""
    request = inspection_pb2.ClassifyRequest(
        model=model_ref(model), images=to_images(images, resize), top_k=top_k
    )
    return Unary(
        Method(_Inspection, "Classify"),
        request,
        lambda reply: tuple(freeze(item) for item in reply.classifications),
    )


def activations(
    images: Images, layers: str | Sequence[str], *, model: str = "", resize: ResizeLike | None = None
) -> Call[dict[str, Array]]:
    """Value of each layer, by name, float32 of shape (N, C, H, W) or (N, C)."""
    request = inspection_pb2.GetActivationsRequest(
        model=model_ref(model),
        images=to_images(images, resize),
        layers=[layers] if isinstance(layers, str) else layers,
    )
    return Tensors(Method(_Inspection, "GetActivations"), request, lambda _, tensors: tensors)


def attribute(
    images: Images,
    technique: Technique = "gradient",
    target: Target | None = None,
    *,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[Attribution]:
    """A target attributed to the pixels by one technique; the score of the predicted class by default."""
    request = _attribute_request(images, [(technique, target or ClassScore())], model, resize)
    return Tensors(
        Method(_Attribution, "Attribute"), request, lambda head, tensors: _attributions(head, tensors)[0]
    )


def attribute_all(
    images: Images,
    attributions: Sequence[tuple[Technique, Target]],
    *,
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[tuple[Attribution, ...]]:
    """Several attributions of the same images in one call, in the order asked."""
    request = _attribute_request(images, attributions, model, resize)
    return Tensors(Method(_Attribution, "Attribute"), request, _attributions)


def attack(
    images: Images,
    *,
    epsilon: float | None = None,
    target: int | None = None,
    labels: Sequence[int] = (),
    model: str = "",
    resize: ResizeLike | None = None,
) -> Call[AttackOutcome]:
    """Adversarial images by FGSM: towards class `target`, else away from `labels` (or from the predictions).

    `epsilon` is the largest change of a pixel in [0, 1], 8/255 by default.
    """
    request = attack_pb2.AttackRequest(
        model=model_ref(model), images=to_images(images, resize), fgsm=attack_pb2.Fgsm(epsilon=epsilon)
    )
    if target is None:
        request.untargeted.labels.extend(labels)
    else:
        request.targeted.index = target
    return Tensors(Method(attack_pb2_grpc.AttackServiceStub, "Attack"), request, _outcome)


def submit(
    technique: Message, *, model: str = "", seed: int | None = None, request_id: str = ""
) -> Call[Snapshot]:
    """Queues a job of any technique, given by its message, such as `convlens.v1.job_pb2.DeepDream`.

    Submitting again under the same `request_id` (a UUID; a new one by default) returns the same job.
    """
    request = job_pb2.SubmitJobRequest(
        request_id=request_id or str(uuid.uuid4()), model=model_ref(model), seed=seed
    )
    arms = request.DESCRIPTOR.oneofs_by_name["technique"].fields
    arm = next((arm.name for arm in arms if arm.message_type == technique.DESCRIPTOR), None)
    if arm is None:
        allowed = f"the message of {' or '.join(arm.name for arm in arms)}"
        raise InvalidArgument.of("technique", technique.DESCRIPTOR.name, allowed)
    getattr(request, arm).CopyFrom(technique)
    return Unary(Method(job_pb2_grpc.JobServiceStub, "SubmitJob"), request, snapshot)


def deepdream(
    image: ImageLike,
    *,
    layers: str | Sequence[str] = (),
    octaves: int | None = None,
    octave_scale: float | None = None,
    steps: int | None = None,
    step_size: float | None = None,
    jitter: int | None = None,
    seed: int | None = None,
    model: str = "",
    resize: ResizeLike | None = "keep",
    request_id: str = "",
) -> Call[Snapshot]:
    """Queues a DeepDream on `image`; the parameters are those of `convlens.v1.DeepDream`."""
    technique = job_pb2.DeepDream(
        image=to_image(image, resize),
        layers=[layers] if isinstance(layers, str) else layers,
        octaves=octaves,
        octave_scale=octave_scale,
        steps=steps,
        step_size=step_size,
        jitter=jitter,
    )
    return submit(technique, model=model, seed=seed, request_id=request_id)


def operation(name: str) -> Call[Snapshot]:
    """One job by its name, "operations/<id>" or only the id."""
    request = operations_pb2.GetOperationRequest(name=operation_name(name))
    return Unary(Method(_Operations, "GetOperation"), request, snapshot)


def operations() -> Call[tuple[Snapshot, ...]]:
    """All jobs that the server keeps, without previews."""
    request = operations_pb2.ListOperationsRequest(name="operations")
    return Pages(Method(_Operations, "ListOperations"), request, "operations", snapshot)


def cancel(name: str) -> Call[None]:
    """Asks a job to stop."""
    request = operations_pb2.CancelOperationRequest(name=name)
    return Unary(Method(_Operations, "CancelOperation"), request, lambda _: None)


def delete(name: str) -> Call[None]:
    """Removes a finished job and its artifacts."""
    request = operations_pb2.DeleteOperationRequest(name=name)
    return Unary(Method(_Operations, "DeleteOperation"), request, lambda _: None)


def wait(name: str) -> Call[Snapshot]:
    """Waits until a job is done."""
    return Wait(name)


def watch(name: str) -> Call[JobMetadata]:
    """Follows a job's events."""
    return Watch(name)


def read_artifact(name: str, artifact: str) -> Call[Array]:
    """Reads one tensor that a job made."""
    return ReadArtifact(name, artifact)


def operation_name(name: str) -> str:
    """The full name of an operation given by its name or its id."""
    return f"operations/{name.removeprefix('operations/')}"


def _attribute_request(
    images: Images, asked: Sequence[tuple[str, Target]], model: str, resize: ResizeLike | None
) -> attribution_pb2.AttributeRequest:
    request = attribution_pb2.AttributeRequest(model=model_ref(model), images=to_images(images, resize))
    for technique, target in asked:
        if technique not in TECHNIQUES:
            raise InvalidArgument.of("technique", technique, f"one of {', '.join(TECHNIQUES)}")
        item = request.attributions.add(target=target.message())
        getattr(item, technique).CopyFrom(TECHNIQUES[technique])
    return request


def _attributions(head: Any, tensors: dict[str, Array]) -> tuple[Attribution, ...]:
    return tuple(
        Attribution(tuple(target.values), tuple(target.class_indices), array)
        for target, array in zip(head.targets, tensors.values(), strict=True)
    )


def _outcome(head: Any, tensors: dict[str, Array]) -> AttackOutcome:
    return AttackOutcome(tuple(freeze(item) for item in head.certificates), **tensors)


def _only(tensors: dict[str, Array]) -> Array:
    (array,) = tensors.values()
    return array
