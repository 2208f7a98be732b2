"""A question asked in a process of its own, which starts in no time: LMDB may end one whose pages contradict
themselves."""

import os
import traceback
from collections.abc import Callable
from typing import Any

import msgspec


class Ended(Exception):
    """The process was ended by a signal."""


def forked(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer, as JSON gives it back; AssertionError with the traceback of whatever else came of it."""
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            told = msgspec.json.encode({"answer": question()})
        except BaseException:
            told = msgspec.json.encode({"failure": traceback.format_exc()})
        with open(here, "wb") as file:
            file.write(told)
        os._exit(0)
    os.close(here)
    with open(there, "rb") as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise Ended(f"signal {os.WTERMSIG(status)}")
    found = msgspec.json.decode(told)
    assert "failure" not in found, found["failure"]
    answer: dict[str, Any] = found["answer"]
    return answer
