"""The syntax of ganesha.conf: blocks of parameters and further blocks, to text and back.

ganesha has no way to check a file before it is applied, and one error in it takes every export away. So what
is written is read again by a parser that is stricter than ganesha's, and has to come out as it went in:
whatever a text could do to its surroundings, it would show there. Parameters are those of a table, since
ganesha ignores, with a warning, what it does not know.
"""

import re
from collections.abc import Iterator

import msgspec

from exports.errors import InvalidExport

KNOWN: dict[str, frozenset[str]] = {
    "NFS_CORE_PARAM": frozenset(
        {"NFS_Port", "MNT_Port", "Bind_addr", "Protocols", "Enable_NLM", "Enable_RQUOTA", "Enable_UDP"}
        | {"mount_path_pseudo"}
    ),
    "NFSV4": frozenset(
        {"Grace_Period", "Lease_Lifetime", "Minor_Versions", "RecoveryRoot"}
        | {"Only_Numeric_Owners", "Delegations"}
    ),
    "NFS_KRB5": frozenset({"Active_krb5", "PrincipalName", "KeytabPath", "CCacheDir"}),
    "MDCACHE": frozenset({"Dir_Chunk", "FD_LWMark_Percent", "LRU_Run_Interval"}),
    "EXPORT": frozenset(
        {"Export_Id", "Path", "Pseudo", "Access_Type", "Squash", "Anonymous_Uid", "Anonymous_Gid", "SecType"}
        | {"Protocols", "Transports", "Attr_Expiration_Time", "Delegations"}
    ),
    "CLIENT": frozenset({"Clients", "Access_Type"}),
    "FSAL": frozenset({"Name"}),
}
"""Parameters by block, as far as they are written here."""
INNER = {"EXPORT": frozenset({"CLIENT", "FSAL"})}
"""Blocks in blocks."""

_INNERMOST = frozenset().union(*INNER.values())

_TOKEN = re.compile(r'\s*(?:(?P<word>[A-Za-z0-9_.:/-]+)|"(?P<text>[^"\\\n\r]*)"|(?P<sign>[{}=,;]))')
_WORD = re.compile(r"[A-Za-z0-9_.:/-]+")
_END = re.compile(r"\s*\Z")


class Text(str):
    """A value that is written in quotes, whatever is in it; others are words."""

    __slots__ = ()


Value = str | Text | tuple[str, ...]


class Block(msgspec.Struct, frozen=True):
    """A block of ganesha.conf."""

    name: str
    values: dict[str, Value]
    """By parameter: one word, one text, or a list of words."""
    blocks: tuple["Block", ...] = ()


def text_of(blocks: tuple[Block, ...]) -> str:
    """The file; InvalidExport when it would not be read as these very blocks."""
    text = "".join(_lines(block, "") for block in blocks)
    if parse(text) != blocks:
        raise InvalidExport(
            "the shares cannot be written into ganesha.conf: a text in them has a meaning there"
        )
    return text


def parse(text: str) -> tuple[Block, ...]:
    """The blocks in it; InvalidExport for what is no ganesha.conf, or more of it than is written here."""
    tokens = _tokens(text)
    found = []
    for token in tokens:
        if token not in KNOWN or isinstance(token, Text):
            raise InvalidExport(f"ganesha.conf: {token!r} where a block should begin")
        found.append(_block(token, tokens, inside=None))
    return tuple(found)


def _lines(block: Block, indent: str) -> str:
    lines = [f"{indent}{block.name} {{\n"]
    for key, value in block.values.items():
        if isinstance(value, tuple):
            written = ", ".join(map(_word, value))
        else:
            written = f'"{value}"' if isinstance(value, Text) else _word(value)
        lines.append(f"{indent}  {key} = {written};\n")
    lines += [_lines(inner, indent + "  ") for inner in block.blocks]
    return "".join(lines) + f"{indent}}}\n"


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise InvalidExport(f"{value!r} cannot stand in ganesha.conf without quotes")
    return value


def _tokens(text: str) -> Iterator[str]:
    """Words and signs as they are, quoted texts as Text."""
    at = 0
    while not _END.match(text, at):
        found = _TOKEN.match(text, at)
        if found is None:
            raise InvalidExport(f"ganesha.conf: cannot read {text[at : at + 40]!r}")
        quoted = found["text"]
        yield (found["word"] or found["sign"]) if quoted is None else Text(quoted)
        at = found.end()


def _block(name: str, tokens: Iterator[str], *, inside: str | None) -> Block:
    if name not in (KNOWN.keys() - _INNERMOST if inside is None else INNER.get(inside, ())):
        raise InvalidExport(f"ganesha.conf: no block {name!r} in {inside or 'the file'}")
    _expect(tokens, "{")
    values: dict[str, Value] = {}
    blocks = []
    while (token := next(tokens, "")) != "}" or isinstance(token, Text):
        if token in INNER.get(name, ()):
            blocks.append(_block(token, tokens, inside=name))
            continue
        if token not in KNOWN[name] or token in values or isinstance(token, Text):
            raise InvalidExport(f"ganesha.conf: {token!r} in {name}, where it is unknown or stood before")
        _expect(tokens, "=")
        values[token] = _value(tokens)
    return Block(name, values, tuple(blocks))


def _value(tokens: Iterator[str]) -> Value:
    words: list[str] = []
    while True:
        token = next(tokens, "")
        if isinstance(token, Text):
            if words:
                raise InvalidExport("ganesha.conf: a text in a list of words")
            _expect(tokens, ";")
            return token
        words.append(_word(token))
        sign = next(tokens, "")
        if isinstance(sign, Text) or sign not in (",", ";"):
            raise InvalidExport(f"ganesha.conf: {sign!r} after {token!r}, expected , or ;")
        if sign == ";":
            return tuple(words) if len(words) > 1 else words[0]


def _expect(tokens: Iterator[str], sign: str) -> None:
    token = next(tokens, "")
    if token != sign or isinstance(token, Text):
        raise InvalidExport(f"ganesha.conf: {token!r}, expected {sign}")
