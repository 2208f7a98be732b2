"""Whether an NFS server answers: the call that does nothing (RFC 1813, NFSPROC3_NULL), sent over TCP."""

import struct

import trio

TIMEOUT_S = 5.0
_NULL = struct.pack(">11I", 1 << 31 | 40, 1, 0, 2, 100003, 3, 0, 0, 0, 0, 0)
"""Record mark; transaction 1, a call, RPC 2, NFS 3, procedure 0; no credentials, no verifier."""
_ACCEPTED = struct.pack(">7I", 1 << 31 | 24, 1, 1, 0, 0, 0, 0)
"""Record mark; transaction 1, a reply, accepted, no verifier, done."""


async def answers(address: str, port: int) -> bool:
    """True when the server at `address` carried the call out."""
    with trio.move_on_after(TIMEOUT_S):
        try:
            async with await trio.open_tcp_stream(address, port) as stream:
                await stream.send_all(_NULL)
                reply = b""
                while len(reply) < len(_ACCEPTED):
                    data = await stream.receive_some(len(_ACCEPTED) - len(reply))
                    if not data:
                        return False
                    reply += data
                return reply == _ACCEPTED
        except (OSError, trio.BrokenResourceError):
            pass
    return False
