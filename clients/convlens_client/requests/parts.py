"""More images than fit a call: as many calls as are needed, and one answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from convlens.errors import InvalidArgument
from convlens.v1 import image_pb2
from convlens_client.calls import Rpc, Steps
from convlens_client.contract import bounds
from convlens_client.results import Array

T = TypeVar("T")
LARGEST: Final = 60 << 20
"""Bytes of the images of a request: what a server takes by default, with room for the rest."""


def in_parts(
    request: Any,
    images: Sequence[image_pb2.Image],
    ask: Callable[[Sequence[image_pb2.Image], slice], Rpc[T]],
    join: Callable[[list[T]], T],
) -> Rpc[T]:
    """The call about images, or, where they are more than fit one, several in turn.

    Errors count the images through all of them.

    Args:
        request: class of the request, whose field `images` says how many it takes.
        ask: makes the call about some of the images, and of what else there is one an image.
        join: makes one answer of several.
    """
    most = int(bounds(request.DESCRIPTOR.fields_by_name["images"]).max)
    places = list(_places(images, most, LARGEST))
    if len(places) == 1:
        return ask(images, places[0])

    def steps() -> Generator[Rpc[T], T, T]:
        answers = []
        for place in places:
            call = ask(images[place], place)
            call.first_image = place.start
            answers.append((yield call))
        return join(answers)

    return Steps(steps())


def joined(tensors: Iterable[Array]) -> Array:
    """Arrays of some images each as one of all. Raises InvalidArgument where the images differ in size."""
    parts = list(tensors)
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            shown = " and ".join(" x ".join(map(str, each.shape[-2:])) for each in (parts[0], part))
            raise InvalidArgument.of("images", f"{shown} pixels", "of one size; see resize")
    return np.concatenate(parts)


def joined_by_name(answers: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """The same for arrays by name."""
    return {name: joined(answer[name] for answer in answers) for name in answers[0]}


def _places(images: Sequence[image_pb2.Image], most: int, largest: int) -> Iterator[slice]:
    """Where each request's images stand among all; an image that is too large by itself is sent alone."""
    start, size = 0, 0
    for place, image in enumerate(images):
        bytes_ = image.ByteSize()
        if place > start and (place - start == most or size + bytes_ > largest):
            yield slice(start, place)
            start, size = place, 0
        size += bytes_
    yield slice(start, len(images))
