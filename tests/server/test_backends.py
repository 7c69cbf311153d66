"""The two backends: the same numbers; and when models are loaded, loaded again, and let go."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from support.kinks import assert_same_gradient
from support.repository import add_copy

from convlens.errors import Cancelled, FailedPrecondition, InvalidArgument, NotFound
from convlens.v1 import model_pb2
from convlens_models.graphs.autodiff import ReluRule
from convlens_models.importing.importer import add_architecture
from convlens_models.repository import EMBEDDED, ModelRepository
from convlens_server.backends.models import LoadedModels
from convlens_server.backends.providers import Compute
from convlens_server.request.cancellation import Caller, current
from convlens_server.settings import ServerSettings

LAYERS = ["features.conv1", "features.relu3_2", "classifier", "probabilities", "log_probabilities"]


def load(root: Path | None = None, session_bytes: float = 1e9, max_models: int = 4) -> LoadedModels:
    # Not validated, so that the bound on sessions may be a fraction of a MiB.
    settings = ServerSettings.model_construct(session_megabytes=session_bytes / 2**20, max_models=max_models)
    return LoadedModels(ModelRepository(root), Compute(lambda: 1), settings)


def ref(name: str = "patterns") -> model_pb2.ModelRef:
    return model_pb2.ModelRef(name=name)


def batch(count: int = 2, height: int = 96, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, height, width), np.float32)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> LoadedModels:
    """The embedded network, and as "script" the same weights as TorchScript."""
    root = tmp_path_factory.mktemp("models")
    stored = ModelRepository().get()
    labels = root / "labels.txt"
    labels.write_text("\n".join(stored.manifest.labels))
    weights = stored.file("weights.safetensors")
    add_architecture(root, "patterns", weights, labels, "script", torchscript=True)
    return load(root)


@pytest.mark.parametrize("size", [(2, 96, 96), (1, 96, 96), (2, 70, 101)])
def test_backends_agree_on_values(both: LoadedModels, size: tuple[int, int, int]) -> None:
    images = batch(*size)
    ours, theirs = (both.get(ref(name)).forward(images, LAYERS) for name in ("patterns", "script"))
    assert both.get(ref("script")).stored.manifest.engine == "torchscript"
    for layer in LAYERS:
        assert np.allclose(ours[layer], theirs[layer], rtol=1e-4, atol=1e-4), layer


@pytest.mark.parametrize("rule", list(ReluRule))
@pytest.mark.parametrize("layer", ["features.relu3_2", "classifier", "log_probabilities"])
@pytest.mark.parametrize("size", [(2, 96, 96), (1, 96, 96), (2, 70, 101)])
def test_backends_agree_on_gradients(
    both: LoadedModels, rule: ReluRule, layer: str, size: tuple[int, int, int]
) -> None:
    images = batch(*size)
    shape = both.get(ref()).forward(images, [layer])[layer].shape
    cotangent = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    ours, theirs = both.get(ref()), both.get(ref("script"))
    value, gradient = ours.gradient(images, layer, cotangent, rule)
    assert np.allclose(value, theirs.forward(images, [layer])[layer], rtol=1e-4, atol=1e-4)
    assert_same_gradient(gradient, images, lambda x: theirs.gradient(x, layer, cotangent, rule)[1], 1e-4)


@pytest.mark.parametrize("wrt", ["features.relu3_2", "features.pool4"])
def test_backends_agree_on_gradients_by_a_layer(both: LoadedModels, wrt: str) -> None:
    images = batch(2)
    cotangent = np.random.default_rng(1).normal(size=(2, 53)).astype(np.float32)
    ours, theirs = both.get(ref()), both.get(ref("script"))
    found = ours.inner_gradient(images, "classifier", cotangent, wrt)
    for part, values in enumerate(found):

        def expected(x: np.ndarray, part: int = part) -> np.ndarray:
            return theirs.inner_gradient(x, "classifier", cotangent, wrt)[part]

        assert_same_gradient(values, images, expected, 1e-4)


@pytest.mark.parametrize("name", ["patterns", "script"])
@pytest.mark.parametrize("wrt", ["features.relu3_2", "features.pool4"])
def test_a_layer_has_no_gradient_by_itself_or_by_later_ones(both: LoadedModels, name: str, wrt: str) -> None:
    backend, images = both.get(ref(name)), batch(1)
    value = backend.forward(images, ["features.relu3_2"])["features.relu3_2"]
    with pytest.raises(InvalidArgument, match="depends on"):
        backend.inner_gradient(images, "features.relu3_2", np.ones_like(value), wrt)


def test_other_weights_make_another_network(both: LoadedModels, tmp_path: Path) -> None:
    backend, images = both.get(ref()), batch(1)
    file = backend.stored.file("weights.safetensors")
    (tmp_path / file.name).write_bytes(file.read_bytes())
    layers = ["features.relu3_2", "classifier"]
    trained, same = (found.forward(images, layers) for found in (backend, backend.with_weights(tmp_path)))
    assert all(np.array_equal(trained[layer], same[layer]) for layer in layers)
    with pytest.raises(FailedPrecondition, match="TorchScript"):
        both.get(ref("script")).with_weights(tmp_path)


def test_a_set_of_layers_is_one_session_whatever_their_order(both: LoadedModels) -> None:
    models = load()
    backend = models.get(ref())
    images = batch()
    first = backend.forward(images, ["classifier", "features.conv1"])
    second = backend.forward(images, ["features.conv1", "classifier", "classifier"])
    assert len(models.sessions) == 1
    assert np.array_equal(first["classifier"], second["classifier"])
    assert first["features.conv1"].shape == (2, 40, 48, 48)


def test_odd_sizes_share_one_session() -> None:
    models = load()
    for side in (64, 65, 80, 128):
        models.get(ref()).forward(batch(1, side, side), ["classifier"])
    assert len(models.sessions) == 1
    for count in (1, 2, 3):  # The model's own size: one session for single images, one for batches.
        models.get(ref()).forward(batch(count), ["classifier"])
    assert len(models.sessions) == 3


def test_static_and_dynamic_graphs_agree() -> None:
    backend = load().get(ref())
    images = batch(1)
    classes = len(backend.stored.manifest.labels)
    cotangent = np.random.default_rng(1).normal(size=(1, classes)).astype(np.float32)
    single = backend.gradient(images, "classifier", cotangent, ReluRule.GRADIENT)[1]
    twice = backend.gradient(
        np.concatenate([images] * 2), "classifier", np.concatenate([cotangent] * 2), ReluRule.GRADIENT
    )[1]
    assert np.allclose(single[0], twice[1], rtol=1e-4, atol=1e-6)


def test_sessions_stay_within_their_budget() -> None:
    models = load()
    backend = models.get(ref())
    backend.forward(batch(1), ["classifier"])
    models = load(session_bytes=2.2 * models.sessions.weight)
    backend = models.get(ref())
    for layer in ("classifier", "probabilities", "log_probabilities"):
        backend.forward(batch(1), [layer])
    assert len(models.sessions) == 2


def test_unloading_frees_backend_and_sessions() -> None:
    models = load()
    backend = weakref.ref(models.get(ref()))
    models.get(ref()).forward(batch(1), ["classifier"])
    assert len(models.sessions) == 1
    assert [item.sessions for item in models.unload(ref())] == [1]
    gc.collect()
    assert len(models.sessions) == 0
    assert backend() is None
    models.get(ref()).forward(batch(1), ["classifier"])


def test_the_longest_unused_model_is_unloaded(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):  # Another mean makes another digest.
        add_copy(tmp_path, name, mean=(number / 10,) * 3)
    models = load(tmp_path, max_models=2)
    for name in "abc":
        models.get(ref(name)).forward(batch(1), ["classifier"])
    assert len(models.sessions) == 2


def test_a_model_that_changed_on_disk_is_loaded_again(tmp_path: Path) -> None:
    add_copy(tmp_path, "copy")
    models = load(tmp_path)
    first = models.get(ref("copy"))
    assert models.get(ref("copy")) is first
    add_copy(tmp_path, "copy", mean=(0.1, 0.2, 0.3))
    second = models.get(ref("copy"))
    assert second is not first
    assert second.stored.manifest.mean == (0.1, 0.2, 0.3)
    add_copy(tmp_path, "copy", 2)
    assert models.get(ref("copy")).stored.manifest.version == 2


def test_unknown_names_are_refused() -> None:
    models = load()
    with pytest.raises(NotFound, match="patterns"):
        models.get(ref("nothing"))
    with pytest.raises(InvalidArgument, match="such as"):
        models.get(ref()).forward(batch(1), ["nothing"])


def test_a_pass_is_stopped_when_its_caller_leaves() -> None:
    """A pass that would take long returns early, and the backend goes on working."""
    backend, caller = load().get(ref()), Caller()
    images = batch(64, 256, 256)
    token = current.set(caller)
    try:
        backend.forward(batch(1, 80, 80), ["classifier"])
        timer = threading.Timer(0.05, caller.leave)
        timer.start()
        with pytest.raises(Exception, match="terminate"):
            backend.forward(images, ["classifier"])
        with pytest.raises(Cancelled):
            backend.forward(images, ["classifier"])
    finally:
        current.reset(token)
    assert backend.forward(batch(1, 80, 80), ["classifier"])["classifier"].shape[0] == 1


def test_the_embedded_model_needs_no_folder() -> None:
    assert load(None).get(ref()).stored.path.is_relative_to(EMBEDDED)
