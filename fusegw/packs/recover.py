"""Packs left open by a crash: each is closed at its last committed record, none is ever appended to.

What the metadata refers to was durable before the metadata said so (the pack's bytes are synced first), so
every committed record should open. Records behind the last committed one were never acknowledged and go.
"""

from collections.abc import Sequence

from cache import PackCache
from fusegw.clock import Entropy
from fusegw.packs.closing import Closing, complete, disk_error
from fusegw.packs.format import Entry, PackCipher, PackInfo, PackKeys


def close_torn(
    cache: PackCache, keys: PackKeys, info: PackInfo, committed: Sequence[Entry], *, entropy: Entropy
) -> Closing:
    """Close the pack `info` that was open, or not known to be closed, when the gateway ended.

    committed: chunk id and location of every record the metadata refers to; with none the file is discarded.
    Must not be called for a pack that may have reached the store: its end gets other bytes than before.
    Records that do not open are reported in the result, and a file without any that opens is left as it is.
    Raises Full or FusegwError when the disk refuses, Corrupt when the volume lacks the pack's key version.
    """
    try:
        if not committed:
            cache.discard(info.name)
            return Closing(None, ())
        cipher = PackCipher(keys, info.key_version, info.pack_id, info.salt)
        try:
            fd = cache.reopen(info.name)
        except FileNotFoundError:
            return Closing(None, tuple(committed))
        try:
            return complete(cache, cipher, info, fd, committed, entropy)
        except OSError:
            cache.seal(info.name, cache.size(info.name) or 0)
            raise
    except OSError as error:
        raise disk_error(f"closing pack {info.name}, which was open when the gateway ended", error) from error
