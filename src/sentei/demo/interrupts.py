"""Stopping a training between two steps, where it can be stopped."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Holds back Ctrl-C and `kill` until the training is between two steps.

    An exception out of the middle of a step gets lost: `fit` ends with variables whose buffers have
    been given away, and fails on them with an error of its own; or the exception arises inside a
    callback of C++ code, which ignores it. The second signal of a kind is not held back.

    Yields:
        A function to call between steps: it does what the signal would have done when it came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals belong to the main thread
        return
    # Handlers in Python raise; where there is none, the signal ends the process or does nothing.
    handlers = {int(number): signal.getsignal(number) for number in _SIGNALS}
    earlier = {number: handler for number, handler in handlers.items() if callable(handler)}
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, earlier[number])

    def act() -> None:
        if came:
            signal.raise_signal(came.pop())

    for number in earlier:
        signal.signal(number, remember)
    try:
        yield act
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    act()
