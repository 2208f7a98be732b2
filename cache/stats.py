"""One frozen picture of a cache, for `status` and `cache stats`."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What happened since the cache was opened. The cache's lock guards it."""

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    miss_bytes: int = 0
    fills: int = 0
    evictions: int = 0
    evicted_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Sizes are bytes on disk (rounded up to 4 KiB) now; counters run since the cache was opened."""

    used_bytes: int
    """Pinned and clean bytes in pack files."""
    budget_bytes: int
    dirty_bytes: int
    """Pinned and reserved bytes: what cannot be evicted."""
    pinned_bytes: int
    """Pack files under construction or not yet in the store."""
    reserved_bytes: int
    """Claims for data accepted but not yet in a pack file."""
    clean_bytes: int
    """Evictable blocks of stored packs."""
    hits: int
    misses: int
    hit_bytes: int
    miss_bytes: int
    fills: int
    """Blocks stored after a miss."""
    evictions: int
    """Blocks evicted for room."""
    evicted_bytes: int
    files: int
    pinned_files: int
    blocks: int
    """Clean blocks present."""
    disk_free_bytes: int
    """Free space of the file system below at the last look (at most about a second old)."""
