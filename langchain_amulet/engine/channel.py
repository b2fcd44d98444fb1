"""Hands tokens from the thread that draws them to whoever reads them, in a thread or in a task."""

import threading
from collections import deque
from concurrent.futures import Future


class Channel:
    """A queue of token ids with an end, or with an error in place of it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer on the same thread may come in between
        self._tokens: deque[int] = deque()
        self._readers: deque[Future[int | None]] = deque()
        self._is_closed = False
        self._error: BaseException | None = None

    def put(self, token_id: int) -> None:
        """Hand on a token; after the end, nothing."""
        with self._lock:
            if self._is_closed:
                return
            reader = self._next_reader()
            if reader is None:
                self._tokens.append(token_id)
            else:
                reader.set_result(token_id)

    def close(self, error: BaseException | None = None) -> None:
        """Hand on the end; the first reader to come by takes the error, if there is one."""
        with self._lock:
            self._is_closed, self._error = True, error
            while (reader := self._next_reader()) is not None:
                self._end(reader)

    def next(self) -> "Future[int | None]":
        """The next token, once there is one; `None` at the end."""
        future: Future[int | None] = Future()
        with self._lock:
            if self._tokens:
                future.set_result(self._tokens.popleft())
            elif self._is_closed:
                self._end(future)
            else:
                self._readers.append(future)
        return future

    def give_back(self, future: "Future[int | None]") -> None:
        """Take over what a reader was given, but was interrupted before it could use it."""
        with self._lock:
            if future.cancel() or future.cancelled():
                return
            error = future.exception()
            if error is not None:
                self._error = error
            elif (token_id := future.result()) is not None:
                self._tokens.appendleft(token_id)

    def _next_reader(self) -> "Future[int | None] | None":
        """The reader that has waited longest; one that was cancelled, with its task, takes nothing."""
        while self._readers:
            reader = self._readers.popleft()
            if reader.set_running_or_notify_cancel():
                return reader
        return None

    def _end(self, reader: "Future[int | None]") -> None:
        error, self._error = self._error, None
        if error is None:
            reader.set_result(None)
        else:
            reader.set_exception(error)
