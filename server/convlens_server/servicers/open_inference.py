"""inference.GRPCInferenceService: the models of the repository as Triton's and KServe's clients know models.

A classifier is two models there. `NAME` takes "image", FP32 (N, 3, H, W) in [0, 1], and gives "probabilities"
and the logits, or any layers that are asked for by name. `NAME.gradient` takes a "cotangent" too, in the
shape of the value of a layer (parameter "layer", by default the logits), and gives "value" and
"image_gradient", the gradient of <value, cotangent> to the image; how ReLUs pass it is the parameter "rule".
"""

# ruff: noqa: N802 (the methods are named as in the proto)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from convlens.errors import ConvLensError, InvalidArgument, NotFound
from convlens.inference import open_inference_pb2 as pb
from convlens.inference import open_inference_pb2_grpc
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.manifest import PROBABILITIES, Manifest
from convlens_server.backends.base import F32, Backend
from convlens_server.quick.input_tensors import (
    COTANGENT,
    FP32,
    IMAGE,
    check_cotangent,
    check_image,
    expect,
    read_inputs,
    read_parameters,
)
from convlens_server.request.raw_request import Kind, RawRequest, reference
from convlens_server.request.request_context import phase, reads
from convlens_server.servicers.base import Gateways, InferenceServicer, computed
from convlens_server.techniques.base import BOTH_WAYS

VALUE, IMAGE_GRADIENT = "value", "image_gradient"
COPIES: Final = 4
"""The values of a reply are there as arrays, as bytes, as the message, and in gRPC."""

Metadata = pb.ModelMetadataResponse.TensorMetadata
Output = pb.ModelInferResponse.InferOutputTensor


class OpenInferenceServicer(InferenceServicer, open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Tells what the server has, and runs passes."""

    def __init__(self, gateways: Gateways) -> None:
        super().__init__(gateways)
        self._is_ready = gateways.is_ready

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Any) -> pb.ServerLiveResponse:
        """Say that the server lives: it answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> pb.ServerReadyResponse:
        """Say whether the server takes calls."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        """Give the server's name and version."""
        return pb.ServerMetadataResponse(name="convlens", version=version("convlens"))

    @computed
    def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Say whether the model, which must be there, can be loaded."""
        try:
            self._backend(Kind.of(request.name), request.version)
        except NotFound:
            raise
        except ConvLensError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @computed
    def ModelMetadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """Give the inputs and outputs of a model."""
        kind = Kind.of(request.name)
        manifest = self.inference.stored(reference(kind.name, request.version, "version")).manifest
        _check_kind(kind, manifest)
        known = self.inference.models.repository.list(all_versions=True)
        inputs, outputs = tensors(kind, manifest)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[str(number) for number in sorted(m.version for m in known if m.name == kind.name)],
            platform=f"convlens_{manifest.engine}",
            inputs=inputs,
            outputs=outputs,
        )

    @reads(RawRequest.read)
    async def ModelInfer(self, request: Any, context: Any) -> pb.ModelInferResponse:
        """Run one pass of a model on the tensors of the request, and answer with its outputs."""
        reply = await self.inference.executor.run(self._infer, request)
        reply.id = request.message.id  # Not part of what is cached.
        return reply

    def _infer(self, raw_request: RawRequest) -> pb.ModelInferResponse:
        request = raw_request.message
        kind = Kind.of(request.model_name)
        backend = self._backend(kind, request.model_version)
        with phase("decode"):
            inputs = read_inputs(request, raw_request.raw)
            parameters = read_parameters(request.parameters, ("layer", "rule") if kind.ending else ())
            wanted = list(dict.fromkeys(output.name for output in request.outputs))
            layers = layers_read(kind, backend.stored.manifest, parameters, wanted)
            manifest = backend.stored.manifest.read_at(layers)
            check_image(inputs, manifest, self.inference.settings.max_batch_pixels)
        count, _, *size = inputs[IMAGE].shape
        passes = {"": float(BOTH_WAYS if kind.ending else 1)}
        self.inference.expect_passes(backend.stored.manifest, count, (size[0], size[1]), passes)
        if kind.ending:
            outputs = _gradient(backend, inputs, layers[0], parameters, wanted)
        else:
            outputs = self._forward(backend, inputs, layers)
        with phase("encode"):
            return pb.ModelInferResponse(
                model_name=request.model_name,
                model_version=str(backend.stored.manifest.version),
                outputs=[
                    Output(name=name, datatype=FP32, shape=value.shape) for name, value in outputs.items()
                ],
                raw_output_contents=[value.tobytes() for value in outputs.values()],
            )

    def _forward(
        self, backend: Backend, inputs: Mapping[str, F32], layers: Sequence[str]
    ) -> Mapping[str, F32]:
        expect(inputs, (IMAGE,))
        self.inference.check_values(backend, inputs[IMAGE], layers, "outputs", COPIES)
        return backend.forward(inputs[IMAGE], layers)

    def _backend(self, kind: Kind, number: str) -> Backend:
        backend = self.inference.models.get(reference(kind.name, number, "model_version"))
        _check_kind(kind, backend.stored.manifest)
        return backend


def layers_read(
    kind: Kind, manifest: Manifest, parameters: Mapping[str, str], wanted: Sequence[str]
) -> Sequence[str]:
    """The layers that a pass reads, one for a gradient. Raises InvalidArgument where there is none such."""
    if kind.ending:
        return [manifest.layer(parameters.get("layer", manifest.output), "parameters.layer").name]
    layers = wanted or default_outputs(manifest)
    return [manifest.layer(name, f"outputs[{position}].name").name for position, name in enumerate(layers)]


def _gradient(
    backend: Backend,
    inputs: Mapping[str, F32],
    layer: str,
    parameters: Mapping[str, str],
    wanted: Sequence[str],
) -> Mapping[str, F32]:
    expect(inputs, (IMAGE, COTANGENT))
    rule = parameters.get("rule", ReluRule.GRADIENT.value)
    if rule not in set(ReluRule):
        raise InvalidArgument.of("parameters.rule", rule, f"one of {', '.join(ReluRule)}")
    check_cotangent(inputs, layer, backend)
    value, gradient = backend.gradient(inputs[IMAGE], layer, inputs[COTANGENT], ReluRule(rule))
    outputs = {VALUE: value, IMAGE_GRADIENT: gradient}
    if unknown := [name for name in wanted if name not in outputs]:
        raise InvalidArgument.of("outputs", unknown[0], f"one of {', '.join(outputs)}")
    return {name: outputs[name] for name in wanted or outputs}


def _check_kind(kind: Kind, manifest: Manifest) -> None:
    if kind.ending and manifest.task != "classification":
        raise NotFound(f"no model {kind.name + kind.ending!r}: {kind.name!r} is a style network")


def default_outputs(manifest: Manifest) -> list[str]:
    """The layers that a model gives when nothing is asked for by name."""
    return [PROBABILITIES, manifest.output] if manifest.task == "classification" else [manifest.output]


def tensors(kind: Kind, manifest: Manifest) -> tuple[list[Metadata], list[Metadata]]:
    """The inputs and outputs of a model, with -1 for extents that may vary."""
    side = -1 if manifest.dynamic_size else manifest.input_size
    image = Metadata(name=IMAGE, datatype=FP32, shape=[-1, 3, side, side])

    def layer(name: str, layer: str) -> Metadata:
        return Metadata(name=name, datatype=FP32, shape=[-1, *manifest.layer(layer).shape])

    if kind.ending:
        gradient = Metadata(name=IMAGE_GRADIENT, datatype=FP32, shape=image.shape)
        logits = manifest.output
        return [image, layer(COTANGENT, logits)], [layer(VALUE, logits), gradient]
    return [image], [layer(name, name) for name in default_outputs(manifest)]
