"""Passes tokens from the worker thread to a reader in another thread or asyncio task."""

import threading
from collections import deque
from concurrent.futures import Future


class Channel:
    """A queue of token ids that ends normally or with an error."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run on the same thread while the lock is held
        self._tokens: deque[int] = deque()
        self._readers: deque[Future[int | None]] = deque()
        self._is_closed = False
        self._error: BaseException | None = None

    def put(self, token_id: int) -> None:
        """Add a token; ignored after the end."""
        with self._lock:
            if self._is_closed:
                return
            reader = self._next_reader()
            if reader is None:
                self._tokens.append(token_id)
            else:
                reader.set_result(token_id)

    def close(self, error: BaseException | None = None) -> None:
        """End the queue. The first reader after the last token gets the error, if there is one."""
        with self._lock:
            self._is_closed, self._error = True, error
            while (reader := self._next_reader()) is not None:
                self._end(reader)

    def next(self) -> "Future[int | None]":
        """Return a future of the next token; its result is `None` at the end."""
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
        """Return the future of an interrupted reader. Its token or error goes to the next reader."""
        with self._lock:
            if future.cancel() or future.cancelled():
                return
            error = future.exception()
            if error is not None:
                self._error = error
            elif (token_id := future.result()) is not None:
                reader = self._next_reader()
                if reader is None:
                    self._tokens.appendleft(token_id)
                else:
                    reader.set_result(token_id)

    def end_after_fork(self, error: BaseException) -> None:
        """End the queue in a forked process, unless it has ended; tokens that were not read are dropped.

        A thread of the parent process may have held the lock, and the locks of waiting readers, who are not here.
        """
        self._lock = threading.RLock()
        self._readers.clear()
        if not self._is_closed:
            self._tokens.clear()
            self._is_closed, self._error = True, error

    def _next_reader(self) -> "Future[int | None] | None":
        """Return the reader that has waited longest; skip readers that are cancelled."""
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
