"""`convlens models`: what the repository holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import typer

from convlens_client.cli import completion
from convlens_client.cli.common import out, table
from convlens_client.cli.options import Shared, command
from convlens_client.results import LoadedModel, Model

PROBABILITIES: Final = ("the softmax of the scores", "each the sigmoid of its score; classes are independent")

app = typer.Typer(no_args_is_help=True, help="The models that the server can look into.")


Name = Annotated[
    str,
    typer.Argument(
        autocompletion=completion.models, help="Name or name/version; default: the embedded model."
    ),
]


@command("json", group=app, name="list")
def list_models(
    given: Shared,
    all_versions: Annotated[bool, typer.Option("--all", help="Older versions too.")] = False,
) -> None:
    """List the models of the repository.

    Example: convlens models list --all
    """
    models = given.client.list_models(all_versions=all_versions)
    if given.emitted(models):
        return
    rows = (
        (f"{m.name}/{m.version}", m.architecture, m.engine, m.input_size, f"{m.parameters:,}", len(m.labels))
        for m in models
    )
    table(("model", "architecture", "engine", " input", " parameters", " classes"), rows)


@command("json", group=app)
def show(
    given: Shared,
    model: Name = "",
    labels: Annotated[bool, typer.Option("--labels", help="The classes instead of the layers.")] = False,
) -> None:
    """Show one model with its layers, or its classes.

    Example: convlens models show patterns --labels
    """
    facts = given.client.get_model(model)
    if given.emitted(facts):
        return
    if labels:
        table((" class", "label"), enumerate(facts.labels))
    else:
        _summary(facts)
        rows = (
            (
                layer.name,
                layer.kind,
                " x ".join(map(str, layer.shape)),
                layer.stride,
                layer.receptive_field,
                "yes" if layer.has_weights else "",
            )
            for layer in facts.layers
        )
        table(("layer", "kind", "shape", " stride", " receptive field", "weights"), rows)


@command("json", group=app)
def load(given: Shared, model: Name = "") -> None:
    """Load a model into the server's memory, or again if its files have changed; for administrators.

    Example: convlens models load patterns
    """
    _show_loaded(given, [given.client.load_model(model)])


@command("json", group=app)
def unload(
    given: Shared,
    model: Annotated[
        str,
        typer.Argument(autocompletion=completion.models, help="Name, for all its versions, or name/version."),
    ],
) -> None:
    """Free the memory that a model takes; for administrators. The next call loads it again.

    Example: convlens models unload patterns/1
    """
    _show_loaded(given, given.client.unload_model(model))


@command("json", group=app)
def loaded(given: Shared) -> None:
    """List what is in the server's memory; for administrators.

    Example: convlens models loaded
    """
    _show_loaded(given, given.client.loaded_models())


def _show_loaded(given: Shared, models: Iterable[LoadedModel]) -> None:
    if given.emitted(models):
        return
    rows = ((f"{m.name}/{m.version}", m.sessions, f"{m.bytes / 1e6:,.1f}", m.digest[:12]) for m in models)
    table(("model", " sessions", " MB", "sha256"), rows)


def _summary(model: Model) -> None:
    taking = sum(layer.least_side > 0 for layer in model.layers)
    one_size = f"this size only, but {taking} layers before its head take any" if taking else "this size only"
    sizes = "any size" if model.dynamic_size else one_size
    title = f"{model.name}/{model.version}"
    out.print(f"{title} {model.architecture}, engine {model.engine}", style="bold")
    out.print(f"input {model.input_size} x {model.input_size} px, {sizes}; {len(model.labels)} classes")
    out.print(f"{model.parameters:,} parameters, {model.multiply_adds / 1e6:,.0f} M multiply-adds")
    if model.output_kind:
        out.print(f"from {model.output_kind}; probabilities: {PROBABILITIES[model.independent]}")
    if model.parent:
        out.print(f"trained on from {model.parent}")
    for note in model.notes:
        out.print(note)
    out.print(f"sha256 {model.digest}")
    out.print()
