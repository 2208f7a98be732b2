"""The first message of every client of SMB 2 (MS-SMB2, NEGOTIATE)."""

import struct

from exports.probe import Answer, ask

_MAGIC = b"\xfeSMB"
_HEADER = struct.pack("<4sHHIHHIIQIIQ16x", _MAGIC, 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
"""Its size; NEGOTIATE, asking for one credit; no flags, the first message, no session, no signature."""
_BODY = struct.pack("<HHHHI16xQH", 36, 1, 1, 0, 0, 0, 0x0210)
"""Its size; one dialect; can sign; nothing else. SMB 2.1, since from 3.0 on a client is known again."""
_NEGOTIATE = struct.pack(">I", len(_HEADER + _BODY)) + _HEADER + _BODY
_ANSWER = struct.Struct(">4x4s4xIH")
"""Behind the length and in the header: magic, size, status and which message."""


async def ask_smb(address: str, port: int) -> Answer:
    """RIGHT when the server at `address` took the dialect."""
    return await ask(address, port, _NEGOTIATE, answer_bytes=_ANSWER.size, is_right=_is_right)


def _is_right(answer: bytes) -> bool:
    return _ANSWER.unpack(answer) == (_MAGIC, 0, 0)
