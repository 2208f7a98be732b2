"""Handlers that say no."""

from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from pyfuse3 import FUSEError


class Refusing:
    """Handlers of nodes that cannot be asked: each request is answered with one errno."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, NoReturn]]:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._refuse

    async def _refuse(self, *_: Any) -> NoReturn:
        raise FUSEError(self._code)
