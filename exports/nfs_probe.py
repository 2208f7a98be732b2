"""The call of NFS that does nothing (RFC 1813, NFSPROC3_NULL)."""

import struct

from exports.probe import Answer, ask

_NULL = struct.pack(">11I", 1 << 31 | 40, 1, 0, 2, 100003, 3, 0, 0, 0, 0, 0)
"""Record mark; transaction 1, a call, RPC 2, NFS 3, procedure 0; no credentials, no verifier."""
_ACCEPTED = struct.pack(">7I", 1 << 31 | 24, 1, 1, 0, 0, 0, 0)
"""Record mark; transaction 1, a reply, accepted, no verifier, done."""


async def ask_nfs(address: str, port: int) -> Answer:
    """RIGHT when the server at `address` carried the call out."""
    return await ask(address, port, _NULL, answer_bytes=len(_ACCEPTED), is_right=_ACCEPTED.__eq__)
