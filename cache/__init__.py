"""Bounded local cache of pack ranges; knows no store, metadata or file system. See `cache.cache`."""

from cache.cache import PackCache
from cache.disk import Buffer, Disk, OsDisk
from cache.errors import CacheError, CacheInUse, CacheUnsuitable
from cache.stats import CacheStats

__all__ = [
    "Buffer",
    "CacheError",
    "CacheInUse",
    "CacheStats",
    "CacheUnsuitable",
    "Disk",
    "OsDisk",
    "PackCache",
]
