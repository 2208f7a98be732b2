"""What the cache refuses with.

Only opening a cache raises these. Later on a damaged, deleted or full cache is a miss, a False or
an `OSError` of the one call that needed the disk; it never takes the gateway down.
"""


class CacheError(Exception):
    """Root of the errors below: the cache directory cannot be used as it is."""


class CacheInUse(CacheError):
    """Another process holds the directory: stop it first, or choose another directory."""


class CacheUnsuitable(CacheError):
    """The file system below lacks what the cache needs, or denies it: choose another directory."""
