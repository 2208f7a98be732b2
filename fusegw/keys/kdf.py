"""Argon2id: from what people can remember to 32 key bytes, at a price for those who guess.

The default is the second recommendation of RFC 9106 (64 MiB, 3 passes, 4 lanes). The floor (OWASP's
19 MiB, 2 passes, 1 lane) and the ceiling hold for parameters we write and for those we read: parameters
in a store are not authenticated before the key they lead to is known, so without a ceiling a hostile store
could have us allocate any amount of memory, and without a floor a careless one would open to a guess.
"""

import msgspec
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from fusegw.errors import Full, Invalid

KEY_SIZE = 32
SALT_SIZE = 32

MEMORY_KIB_MIN = 19 * 1024
MEMORY_KIB_MAX = 1024 * 1024
ITERATIONS_MIN = 2
ITERATIONS_MAX = 16
LANES_MIN = 1
LANES_MAX = 16
# Passes over memory in all: one bound on the time a slot may cost (about 10 s on a weak core).
WORK_KIB_MAX = 4 * 1024 * 1024


class KdfParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cost of one derivation: memory in KiB, passes over it, parallel lanes."""

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def check(self) -> None:
        """Raise Invalid, naming the bound, when a parameter is outside of it."""
        for name, value, low, high in (
            ("memory_kib", self.memory_kib, MEMORY_KIB_MIN, MEMORY_KIB_MAX),
            ("iterations", self.iterations, ITERATIONS_MIN, ITERATIONS_MAX),
            ("lanes", self.lanes, LANES_MIN, LANES_MAX),
            ("memory_kib × iterations", self.memory_kib * self.iterations, 0, WORK_KIB_MAX),
        ):
            if not low <= value <= high:
                raise Invalid(f"Argon2id {name} is {value}, allowed are {low} to {high}")


DEFAULT_KDF = KdfParameters()


def derive(secret: bytes, salt: bytes, parameters: KdfParameters) -> bytes:
    """32 bytes from a secret. Blocks for a good part of a second and takes `memory_kib` of memory.

    Invalid when the parameters are out of bounds, Full when the memory is not there.
    """
    parameters.check()
    kdf = Argon2id(
        salt=salt,
        length=KEY_SIZE,
        iterations=parameters.iterations,
        lanes=parameters.lanes,
        memory_cost=parameters.memory_kib,
    )
    try:
        return kdf.derive(secret)
    except MemoryError as error:
        raise Full(
            f"deriving the key needs {parameters.memory_kib // 1024} MiB of memory: free some and try again"
        ) from error
