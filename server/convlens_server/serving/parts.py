"""Parts of replies: tensors that are cut into messages."""

from __future__ import annotations

from collections.abc import Iterator


class Parts:
    """The tensors of a part of a reply, as an iterator over messages, which are cut when they are asked for.

    Attributes:
        nbytes: what the tensors hold meanwhile.
    """

    def __init__(self, messages: Iterator[bytes], nbytes: int) -> None:
        self._messages, self.nbytes = messages, nbytes

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._messages)
