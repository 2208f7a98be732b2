"""What opens a volume: a passphrase, a key file or a recovery key, held so that it does not leak.

A `Secret` never shows its bytes in repr, str, a log or an exception; it cannot be pickled, copied or
encoded as JSON by accident. The one way to the bytes is `reveal`, called by the slot code alone.
Python cannot wipe memory; core dumps are switched off by the daemon.
"""

import hmac
import unicodedata
from typing import Literal, NoReturn

from fusegw.clock import Entropy
from fusegw.errors import Invalid
from fusegw.keys import recovery

SecretKind = Literal["passphrase", "keyfile", "recovery"]

PASSPHRASE_SIZE_MAX = 4096
KEYFILE_SIZE_MIN = 32
KEYFILE_SIZE_MAX = 1 << 20

_WORDS: dict[SecretKind, str] = {
    "passphrase": "passphrase",
    "keyfile": "key file",
    "recovery": "recovery key",
}


class Secret:
    """One secret and its kind; build it with `passphrase`, `keyfile`, `recovery` or `typed`."""

    __slots__ = ("_value", "kind")

    kind: SecretKind
    _value: bytes

    def __init__(self, kind: SecretKind, value: bytes) -> None:
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "_value", value)

    @classmethod
    def passphrase(cls, text: str) -> "Secret":
        """A passphrase, in Unicode form NFC (keyboards differ in how they compose é). Invalid when empty or
        longer than 4096 bytes."""
        value = _encoded(unicodedata.normalize("NFC", text))
        if value is None:
            raise Invalid("the passphrase is not UTF-8 text: give bytes of any kind as a key file")
        if not value:
            raise Invalid("the passphrase is empty: give one")
        if len(value) > PASSPHRASE_SIZE_MAX:
            raise Invalid(
                f"the passphrase has {len(value)} bytes, at most {PASSPHRASE_SIZE_MAX} are allowed: "
                "use a key file for longer secrets"
            )
        return cls("passphrase", value)

    @classmethod
    def keyfile(cls, data: bytes) -> "Secret":
        """The whole content of a key file: any 32 bytes to 1 MiB, taken as they are."""
        if not KEYFILE_SIZE_MIN <= len(data) <= KEYFILE_SIZE_MAX:
            raise Invalid(
                f"the key file has {len(data)} bytes, {KEYFILE_SIZE_MIN} to {KEYFILE_SIZE_MAX} are "
                "allowed: make one with `head -c 64 /dev/urandom`"
            )
        return cls("keyfile", bytes(data))

    @classmethod
    def recovery(cls, text: str) -> "Secret":
        """A recovery key as printed or typed; Invalid names the mistyped group."""
        return cls("recovery", recovery.decode(text))

    @classmethod
    def typed(cls, data: str | bytes) -> "Secret":
        """What came from a prompt, an environment variable or a passphrase file: a recovery key if it begins
        like one, else a passphrase. One line end at the end is not part of it."""
        text = _decoded(data) if isinstance(data, bytes) else data
        if text is None:
            raise Invalid("the passphrase is not UTF-8 text: give bytes of any kind as a key file")
        text = text.removesuffix("\n").removesuffix("\r")
        return cls.recovery(text) if recovery.looks_like(text) else cls.passphrase(text)

    @classmethod
    def new_recovery(cls, entropy: Entropy) -> "Secret":
        """A fresh recovery key of 256 random bits."""
        return cls("recovery", entropy.token(recovery.KEY_SIZE))

    def reveal(self) -> bytes:
        """The secret bytes, for deriving keys and nothing else."""
        return self._value

    def recovery_text(self) -> str:
        """The text of a recovery key, to be shown once or written to a file."""
        if self.kind != "recovery":
            raise Invalid(f"a {self.words} has no printed form")
        return recovery.encode(self._value)

    @property
    def words(self) -> str:
        """The kind as people say it."""
        return _WORDS[self.kind]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Secret)
            and self.kind == other.kind
            and hmac.compare_digest(self._value, other._value)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Secret: {self.words}>"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret does not change")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is neither pickled nor copied")


# Both give None rather than raise: the codec's exception holds the text and must not travel on as a context.


def _encoded(text: str) -> bytes | None:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None


def _decoded(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
