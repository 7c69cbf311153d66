"""Commands: the options that they share, and those that the contract gives them."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

import typer

from convlens.v1.job_pb2 import SubmitJobRequest
from convlens_client import rendering
from convlens_client.cli import completion
from convlens_client.cli.common import emit, number_of, resize, tagged, weighted
from convlens_client.client import Client
from convlens_client.contract import Parameter, bounds, help_among, parameters
from convlens_client.images import ImageLike, ResizeLike, read_image
from convlens_client.requests.job import Priority

SEED: Final = parameters(SubmitJobRequest.DESCRIPTOR)["seed"]
SAVE_EVERY: Final = "Write the picture every so many steps, too, beside --out; at most 64 of them."
CONNECTION: Final = ("server", "tls", "token", "certificate", "key")
"""The shared options that every command has: where the server is, and who calls."""
PASSED_ON: Final = ("model", "resize", "seed", "priority", "tags", "save_every")
"""The shared options that the client's method has, too."""
JOB: Final = ("priority", "no_wait", "tags", "out", "model", "json")
"""The shared options of commands that start a job and write a picture."""
STEPWISE: Final = (*JOB, "save_every")
"""Those of commands whose picture is made step by step."""
VIDEOS: Final = (".gif", ".mp4")
"""Endings of files that jobs make as a whole, beside those that are written here."""
SPELLED: Final = {"epsilon": "eps", "epsilons": "eps"}


def _check_out(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        rendering.check_path(path)
    return path


def _check_film(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        rendering.check_path(path, (*rendering.SUFFIXES, *VIDEOS))
    return path


@dataclass(frozen=True)
class Shared:
    """What a command was told by options that many commands have, and a client that is told so.

    Each field is an option: a command has those that it names, and always those of `CONNECTION`.
    """

    client: Client
    seed: Annotated[int | None, typer.Option(help=SEED.help)] = None
    priority: Annotated[
        Priority | None,
        typer.Option(
            case_sensitive=False, help="How soon; the server must have such a queue. Default: normal."
        ),
    ] = None
    tags: Annotated[
        list[str] | None,
        typer.Option("--tag", help="What the job can be found again by; repeat.", metavar="NAME=VALUE"),
    ] = None
    save_every: Annotated[int | None, typer.Option(help=SAVE_EVERY)] = None
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only queue the job and print its name.")] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=_check_out, help="Picture (.png, .jpg, .webp) or raw tensor (.npy)."
        ),
    ] = None
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", autocompletion=completion.models, help="Model, as name or name/version."
        ),
    ] = ""
    resize: Annotated[
        str | None,
        typer.Option(
            help="short-side (default: scale, cut out the model's input), keep, a longest side, or "
            "HEIGHTxWIDTH."
        ),
    ] = None
    frame: Annotated[
        int | None, typer.Option(help="Frame of an animation, or page of a TIFF, from 0; default: the first.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False
    server: Annotated[
        str, typer.Option(envvar="CONVLENS_SERVER", help="host:port of the server; default 127.0.0.1:8500.")
    ] = ""
    tls: Annotated[bool, typer.Option("--tls", help="TLS; CONVLENS_TLS may name a PEM file with roots.")] = (
        False
    )
    token: Annotated[
        str,
        typer.Option(envvar="CONVLENS_TOKEN", help="API key or JSON Web Token."),
    ] = ""
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file of the client's certificate, and TLS; or CONVLENS_CLIENT_CERTIFICATE."),
    ] = None
    key: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate's key; or CONVLENS_CLIENT_KEY.")
    ] = None

    @property
    def sized(self) -> ResizeLike | None:
        """The resize that `--resize` names."""
        return resize(self.resize)

    def picture(self, path: Path) -> ImageLike:
        """The picture of a file, or the frame of it that `--frame` names."""
        return path if self.frame is None else read_image(path, frame=self.frame)

    def pictures(self, paths: Sequence[Path]) -> list[ImageLike]:
        """The pictures of several files."""
        return [self.picture(path) for path in paths]

    def emitted(self, value: object) -> bool:
        """Prints a value as JSON where `--json` asks for it; returns whether it did."""
        if self.json:
            emit(value)
        return self.json

    def file(self, name: str, *, unasked: bool = False) -> Path | None:
        """Where the result goes: to `--out`, called `name` where that is a folder; None where none is wanted.

        With `unasked`, also to the folder that is current; a name that is taken there gets a number.
        """
        name = re.sub(r"[^\w.-]+", "-", name)
        if self.out is not None:
            return self.out / name if self.out.is_dir() else self.out
        return _free(Path(name)) if unasked else None

    def class_index(self, text: str) -> int:
        """Index of the model's class that `text` names: by its index, its label or a part of it."""
        return self.client.get_model(self.model).class_index(text)


@dataclass(frozen=True)
class Filmed(Shared):
    """What commands are told whose result may be a video."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            callback=_check_film,
            help="Picture (.png, .jpg, .webp), video (.webp, .gif, .mp4) or raw tensor (.npy).",
        ),
    ] = None


def command(
    *shared: str,
    request: Callable[..., Any] | None = None,
    spelled: Mapping[str, str] = {},
    timeout: float | None = 60.0,
    group: typer.Typer | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: makes a command of a function, whose first argument is a `Shared` or of a derived class.

    The options are the function's own, the parameters of `request`, those that a derived class adds, and the
    shared ones. The function's `**parameters` are what was given of the parameters of `request`, and of the
    shared options that the client's method has, too.

    Args:
        shared: names of shared options.
        request: the function of `convlens_client.requests` whose parameters become options.
        spelled: what the option of a parameter is called, where not as the parameter.
        timeout: of the client, in seconds.
        group: what the command belongs to, where its module has several.
        name: of the command in its group; by default that of the function.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        given, *rest = inspect.signature(function, eval_str=True).parameters.values()
        kind: type[Shared] = given.annotation
        own = [each for each in rest if each.kind is not each.VAR_KEYWORD]
        common = {name: each for name, each in _fields(kind).items() if name in (*shared, *_always(kind))}
        taken = {each.name for each in own} | common.keys()
        known: dict[str, Mapping[str, Parameter]] = getattr(request, "parameters", {})
        derived = {name: _derived(each, spelled) for name, each in known.items() if name not in taken}
        weighted_names = {name for name in derived if _first(known[name]).weighted}
        passed_on = [name for name in (*derived, *PASSED_ON) if name in common.keys() | derived.keys()]

        def run(**values: Any) -> None:
            told = {name: values[name] for name in common}
            passed = {name: values[name] for name in passed_on if _given(values[name])}
            if "resize" in passed:
                passed["resize"] = resize(passed["resize"])
            if "tags" in passed:
                passed["tags"] = tagged(passed["tags"])
            for layers in passed.keys() & weighted_names:
                passed[layers] = weighted(passed[layers], "layer")
            with _client(told, timeout) as client:
                arguments = {each.name: values[each.name] for each in own}
                function(kind(client, **told), **arguments, **passed)

        described: Any = run
        described.__name__, described.__doc__ = function.__name__, function.__doc__
        described.__signature__ = inspect.Signature([*own, *derived.values(), *common.values()])
        described.__annotations__ = {each.name: each.annotation for each in (*own, *derived.values())}
        return group.command(name)(run) if group else run

    return decorate


def _client(told: Mapping[str, Any], timeout: float | None) -> Client:
    """The client that the options of the connection ask for."""
    identity = {name: told[name] for name in ("token", "certificate", "key")}
    return Client(told["server"], timeout=timeout, tls=told["tls"] or None, **identity)


def _free(path: Path) -> Path:
    """The path, with the first number behind its stem under which there is nothing yet."""
    numbered = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not each.exists())


def _given(value: Any) -> bool:
    """Whether an option was given: zero is a value, a switch that is off is none."""
    return value is not False and (bool(value) or isinstance(value, (int, float)))


def _fields(kind: type[Shared]) -> dict[str, inspect.Parameter]:
    """The options that a class of shared options declares; those that it adds to `Shared` come first."""
    hints = get_type_hints(kind, include_extras=True)
    options = {each.name: _option(each.name, hints[each.name], each.default) for each in fields(kind)}
    added = {name: option for name, option in options.items() if name not in Shared.__dataclass_fields__}
    return added | {name: option for name, option in options.items() if name != "client"}


def _always(kind: type[Shared]) -> set[str]:
    """The names of options that a command has unasked: of the connection, and what a derived class adds."""
    return {*CONNECTION} | (kind.__dataclass_fields__.keys() - Shared.__dataclass_fields__.keys())


def _derived(techniques: Mapping[str, Parameter], spelled: Mapping[str, str]) -> inspect.Parameter:
    """The option of a parameter: a switch, a value, or one to be repeated, which has the singular's name."""
    parameter = _first(techniques)
    name = spelled.get(parameter.name) or SPELLED.get(parameter.name) or parameter.name
    name = name.removesuffix("s") if parameter.repeated and name not in SPELLED.values() else name
    flag = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
    told: dict[str, Any] = {"help": parameter.help if "" in techniques else help_among(techniques)}
    type_: Any = parameter.type
    if parameter.choices:
        named: Any = StrEnum
        type_ = named(name, {choice: choice.replace("_", "-") for choice in parameter.choices})
    if parameter.type is float:
        told["parser"] = number_of(name)
    if bounds(parameter.field).layer:
        told["autocompletion"] = completion.layers
    if parameter.weighted:
        told["metavar"] = "LAYER[=WEIGHT]"
    if parameter.type is bool:
        return _option(parameter.name, Annotated[bool, typer.Option(flag, **told)], False)
    type_ = list[type_] if parameter.repeated else type_
    return _option(parameter.name, Annotated[type_ | None, typer.Option(flag, **told)], None)


def _first(techniques: Mapping[str, Parameter]) -> Parameter:
    """The parameter of the first technique that has it; all have it with one type."""
    return next(iter(techniques.values()))


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
