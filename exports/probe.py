"""Does a daemon answer? A small question of its own protocol, which needs no share and no file system.

The process may be there and its port open, kept so by the kernel, while nobody serves it.
"""

import enum
import socket
from collections.abc import Callable

import trio


class Answer(enum.Enum):
    """What came of a question."""

    RIGHT = enum.auto()
    """It serves."""
    OTHER = enum.auto()
    """It is not known to serve, nor to be dead: it said something else or closed the connection, as one does
    that has too many, or it could not be asked from here."""
    NONE = enum.auto()
    """Nobody listens."""


async def ask(
    address: str, port: int, question: bytes, *, answer_bytes: int, is_right: Callable[[bytes], bool]
) -> Answer:
    """Ask over TCP at an address, and look at the first `answer_bytes` of what comes. Waits for as long as
    nothing does. Needs no thread, since all of them may be waiting for a store."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    reply = b""
    try:
        with trio.socket.socket(family, socket.SOCK_STREAM) as asking:
            await asking.connect((address, port))
            await asking.send(question)  # it fits into the buffer of a new socket
            while len(reply) < answer_bytes and (data := await asking.recv(answer_bytes - len(reply))):
                reply += data
    except ConnectionRefusedError:
        return Answer.NONE
    except OSError:
        return Answer.OTHER
    whole = len(reply) == answer_bytes
    return Answer.RIGHT if whole and is_right(reply) else Answer.OTHER
