"""A server that never answers, which counts who asked it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Silent:
    """It takes connections and says nothing."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.address = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def count_requests(self) -> int:
        """How many connections came; each waited for its own timeout and no longer, or it would wait still."""
        self.listening.setblocking(False)
        count = 0
        with suppress(BlockingIOError):
            while True:
                self.listening.accept()[0].close()
                count += 1
        return count


@contextmanager
def silent_server() -> Iterator[Silent]:
    """Open one on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Silent(listening)
