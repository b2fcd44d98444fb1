"""`Generation`: an iterator over the tokens of one answer while they are generated."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import wait

from langchain_amulet.engine.sequence import FinishReason, Sequence, TokenLogprobs
from langchain_amulet.engine.tracing import TracedToken


class Generation:
    """An iterator, sync or async, over the tokens of one answer.

    Tokens are drawn whether or not they are read. The iterator does not yield the stop token that ends the answer
    (`SamplingParams.stop_token_ids`). It raises the error of a request that has failed. When the object is garbage
    collected, the request is cancelled.
    """

    def __init__(self, sequence: Sequence) -> None:
        self._sequence = sequence
        weakref.finalize(self, sequence.finish, "cancelled").atexit = False

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; `None` before its end."""
        return self._sequence.finish_reason

    @property
    def token_ids(self) -> list[int]:
        """All tokens drawn so far, including the one that ended the answer."""
        return list(self._sequence.token_ids)

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """One entry per token drawn so far, if the request asks for them."""
        return list(self._sequence.logprobs)

    @property
    def is_traced(self) -> bool:
        """Whether the request asks for a trace."""
        return self._sequence.request.trace is not None

    @property
    def traces(self) -> list[TracedToken]:
        """One entry per token drawn so far, if the request asks for a trace."""
        return list(self._sequence.traces)

    def cancel(self) -> None:
        """Cancel the request; its rows are freed within one step."""
        self._sequence.finish("cancelled")

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        future = self._sequence.channel.next()
        try:
            wait([future])
        except BaseException:
            self._sequence.channel.give_back(future)
            raise
        token_id = future.result()
        if token_id is None:
            raise StopIteration
        return token_id

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        future = self._sequence.channel.next()
        try:
            token_id = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._sequence.channel.give_back(future)
            raise
        if token_id is None:
            raise StopAsyncIteration
        return token_id
