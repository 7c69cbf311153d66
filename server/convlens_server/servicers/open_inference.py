"""inference.GRPCInferenceService: the models of the repository as Triton's and KServe's clients know models.

A classifier is two models there. `NAME` takes "image", FP32 (N, 3, H, W) in [0, 1], and gives "probabilities"
and the logits, or any layers that are asked for by name. `NAME.gradient` takes a "cotangent" too, in the
shape of the value of a layer (parameter "layer", by default the logits), and gives "value" and
"image_gradient", the gradient of <value, cotangent> to the image; how ReLUs pass it is the parameter "rule".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

import numpy as np

from convlens import wire
from convlens.errors import ConvLensError, InvalidArgument, NotFound
from convlens.inference import open_inference_pb2 as pb
from convlens.inference import open_inference_pb2_grpc
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.importing.publish import GRADIENT
from convlens_models.manifest import PROBABILITIES, Manifest
from convlens_server.backends.base import F32, Backend
from convlens_server.quick.inference_service import InferenceService
from convlens_server.serving.raw_request import Kind, RawRequest, reference
from convlens_server.serving.request_context import phase, reads

IMAGE, COTANGENT, VALUE, IMAGE_GRADIENT = "image", "cotangent", "value", "image_gradient"
FP32: Final = "FP32"
ONE: Final = np.float32(1).view(np.uint32)
"""No number in [0, 1] but -0.0 has larger bits; all that is outside, NaN too, has larger ones."""
PARAMETERS: Final = {GRADIENT: ("layer", "rule"), "": ()}

Metadata = pb.ModelMetadataResponse.TensorMetadata


class OpenInferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Live, ready, metadata and infer.

    Args:
        lane: models and threads.
        ready: whether the server takes calls.
    """

    def __init__(self, lane: InferenceService, ready: Callable[[], bool]) -> None:
        self._lane = lane
        self._ready = ready

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Any) -> pb.ServerLiveResponse:  # noqa: N802
        """The server answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Any
    ) -> pb.ServerReadyResponse:
        """Whether the server takes calls."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        """Name and version."""
        return pb.ServerMetadataResponse(name="convlens", version=version("convlens"))

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether the model is there and can be loaded."""
        return await self._lane.executor.run(self._model_ready, request)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs."""
        return await self._lane.executor.run(self._metadata, request)

    @reads(RawRequest.read)
    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:  # noqa: N802
        """One pass."""
        reply = await self._lane.executor.run(self._infer, request)
        reply.id = request.message.id  # Not part of what is remembered.
        return reply

    def _model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            self._engine(request.name, request.version)
        except NotFound:
            raise
        except ConvLensError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def _metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        kind = Kind.of(request.name)
        repository = self._lane.models.repository
        manifest = self._lane.stored(reference(kind.name, request.version, "version")).manifest
        self._check_kind(kind, manifest)
        versions = (other.version for other in repository.list(all_versions=True) if other.name == kind.name)
        inputs, outputs = tensors(kind, manifest)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[str(number) for number in sorted(versions)],
            platform=f"convlens_{manifest.engine}",
            inputs=inputs,
            outputs=outputs,
        )

    def _infer(self, raw_request: RawRequest) -> pb.ModelInferResponse:
        request = raw_request.message
        backend = self._engine(request.model_name, request.model_version)
        kind, manifest = Kind.of(request.model_name), backend.stored.manifest
        with phase("decode"):
            inputs = read_inputs(request, raw_request.raw)
            parameters = read_parameters(request.parameters, PARAMETERS[kind.ending])
            image = self._image(inputs, manifest)
        run = self._gradient if kind.ending else self._forward
        found = run(backend, image, inputs, parameters, [output.name for output in request.outputs])
        with phase("encode"):
            return pb.ModelInferResponse(
                model_name=request.model_name,
                model_version=str(manifest.version),
                outputs=[
                    pb.ModelInferResponse.InferOutputTensor(name=name, datatype=FP32, shape=value.shape)
                    for name, value in found.items()
                ],
                raw_output_contents=[value.tobytes() for value in found.values()],
            )

    def _forward(
        self,
        backend: Backend,
        image: F32,
        inputs: Mapping[str, F32],
        _parameters: Mapping[str, str],
        wanted: Sequence[str],
    ) -> dict[str, F32]:
        expect(inputs, (IMAGE,))
        manifest = backend.stored.manifest
        layers = list(dict.fromkeys(wanted)) or default_outputs(manifest)
        for position, layer in enumerate(layers):
            manifest.layer(layer, f"outputs[{position}].name")
        self._lane.check_values(backend, image, layers, "outputs")
        return backend.forward(image, layers)

    def _gradient(
        self,
        backend: Backend,
        image: F32,
        inputs: Mapping[str, F32],
        parameters: Mapping[str, str],
        wanted: Sequence[str],
    ) -> dict[str, F32]:
        expect(inputs, (IMAGE, COTANGENT))
        manifest = backend.stored.manifest
        layer = parameters.get("layer", manifest.output)
        manifest.layer(layer, "parameters.layer")
        rule = parameters.get("rule", ReluRule.GRADIENT.value)
        if rule not in set(ReluRule):
            raise InvalidArgument.of("parameters.rule", rule, f"one of {', '.join(ReluRule)}")
        self._check_cotangent(inputs[COTANGENT], image, layer, backend)
        value, gradient = backend.gradient(image, layer, inputs[COTANGENT], ReluRule(rule))
        found = {VALUE: value, IMAGE_GRADIENT: gradient}
        if unknown := [name for name in wanted if name not in found]:
            raise InvalidArgument.of("outputs", unknown[0], f"one of {', '.join(found)}")
        return {name: found[name] for name in (dict.fromkeys(wanted) or found)}

    def _engine(self, name: str, number: str) -> Backend:
        kind = Kind.of(name)
        backend = self._lane.models.get(reference(kind.name, number, "model_version"))
        self._check_kind(kind, backend.stored.manifest)
        return backend

    def _check_kind(self, kind: Kind, manifest: Manifest) -> None:
        if kind.ending and manifest.task != "classification":
            raise NotFound(f"no model {kind.name + kind.ending!r}: {kind.name!r} is a style network")

    def _image(self, inputs: Mapping[str, F32], manifest: Manifest) -> F32:
        if IMAGE not in inputs:
            raise InvalidArgument.of("inputs", list(inputs), f"{IMAGE!r} among them")
        image = inputs[IMAGE]
        sides = ("H", "W") if manifest.dynamic_size else (manifest.input_size,) * 2
        fits = image.ndim == 4 and image.shape[1] == 3 and min(image.shape) > 0
        if manifest.dynamic_size:
            fits = fits and manifest.min_size <= min(image.shape[2:]) and max(image.shape[2:]) <= 4096
        else:
            fits = fits and image.shape[2:] == sides
        if not fits:
            wanted = f"(N, 3, {sides[0]}, {sides[1]})"
            if manifest.dynamic_size:
                wanted += f" of {manifest.min_size} to 4096 pixels a side"
            raise InvalidArgument.of(IMAGE, list(image.shape), wanted)
        if image.size > 3 * self._lane.max_batch_pixels:
            most = f"at most {self._lane.max_batch_pixels} pixels together"
            raise InvalidArgument.of(IMAGE, list(image.shape), most)
        if image.reshape(-1).view(np.uint32).max() > ONE:
            _check_range(image)
        return image

    def _check_cotangent(self, cotangent: F32, image: F32, layer: str, backend: Backend) -> None:
        manifest = backend.stored.manifest
        shape = tuple(manifest.layer(layer).shape)
        if len(shape) > 1 and image.shape[2:] != (manifest.input_size,) * 2:
            shape = backend.forward(image[:1], [layer])[layer].shape[1:]
        wanted = (len(image), *shape)
        if cotangent.shape != wanted:
            raise InvalidArgument.of(
                COTANGENT, list(cotangent.shape), f"{list(wanted)}, as the value of {layer}"
            )
        if not np.isfinite(cotangent).all():
            raise InvalidArgument.of(COTANGENT, "other numbers", "finite")


def default_outputs(manifest: Manifest) -> list[str]:
    """What a model gives when nothing is asked for by name."""
    return [PROBABILITIES, manifest.output] if manifest.task == "classification" else [manifest.output]


def tensors(kind: Kind, manifest: Manifest) -> tuple[list[Metadata], list[Metadata]]:
    """Inputs and outputs; -1 for what may vary."""
    side = -1 if manifest.dynamic_size else manifest.input_size
    image = Metadata(name=IMAGE, datatype=FP32, shape=[-1, 3, side, side])

    def layer(name: str, layer: str) -> Metadata:
        return Metadata(name=name, datatype=FP32, shape=[-1, *manifest.layer(layer).shape])

    if kind.ending:
        gradient = Metadata(name=IMAGE_GRADIENT, datatype=FP32, shape=image.shape)
        logits = manifest.output
        return [image, layer(COTANGENT, logits)], [layer(VALUE, logits), gradient]
    return [image], [layer(name, name) for name in default_outputs(manifest)]


def _check_range(image: F32) -> None:
    low, high = image.min(), image.max()
    if not (low >= 0 and high <= 1):  # Also false for NaN.
        raise InvalidArgument.of(IMAGE, f"values from {low:g} to {high:g}", "finite and within [0, 1]")


def read_inputs(request: pb.ModelInferRequest, raw: Sequence[bytes | memoryview]) -> dict[str, F32]:
    """The inputs by name; raw contents are not copied.

    Raises:
        InvalidArgument: not FP32, several of a name, or not as many values as the shape says.
    """
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgument.of(
            "raw_input_contents", f"{len(raw)} items", f"{len(request.inputs)}, one an input"
        )
    found: dict[str, F32] = {}
    for position, item in enumerate(request.inputs):
        field = f"inputs[{position}]"
        if item.datatype != FP32:
            raise InvalidArgument.of(f"{field}.datatype", item.datatype, FP32)
        if item.name in found:
            raise InvalidArgument.of(f"{field}.name", item.name, "given once")
        if any(not 0 <= extent < 1 << 31 for extent in item.shape):
            raise InvalidArgument.of(f"{field}.shape", list(item.shape), "extents of at least 0")
        found[item.name] = _values(raw[position] if raw else None, item, field)
    return found


def _values(raw: bytes | memoryview | None, item: pb.ModelInferRequest.InferInputTensor, field: str) -> F32:
    count, listed = math.prod(item.shape), item.contents.fp32_contents
    given = len(listed) if raw is None else len(raw) / 4
    if given != count:
        allowed = f"{count} values of 4 bytes, for shape {list(item.shape)}"
        raise InvalidArgument.of(field, f"{given:g} values", allowed)
    flat = np.array(listed, np.float32) if raw is None else np.frombuffer(raw, "<f4")
    return wire.reshaped(flat, item.shape, f"{field}.shape")


def read_parameters(parameters: Mapping[str, pb.InferParameter], known: Sequence[str]) -> dict[str, str]:
    """The parameters of a request, all strings. Raises InvalidArgument for others."""
    found = {}
    for name, value in parameters.items():
        if name not in known:
            continue  # Clients send priorities and timeouts that mean nothing here.
        if value.WhichOneof("parameter_choice") != "string_param":
            raise InvalidArgument.of(f"parameters.{name}", str(value).strip(), "a string")
        found[name] = value.string_param
    return found


def expect(inputs: Mapping[str, F32], names: Sequence[str]) -> None:
    """Raises InvalidArgument unless the inputs are those."""
    if set(inputs) != set(names):
        raise InvalidArgument.of("inputs", list(inputs), f"{' and '.join(names)}, and nothing else")
