"""Opens the store that options describe, wrapped as the gateway uses it.

Apart from the rest of the package: commands that only talk to a running gateway need not wait for it.
"""

from fusegw.clock import Clock, Entropy
from fusegw.store.base import ObjectStore
from fusegw.store.counting import CountingStore, TrafficCounter
from fusegw.store.directory import DirectoryStore
from fusegw.store.options import StoreOptions, check_options, directory_of
from fusegw.store.retry import RetryingStore, RetryPolicy
from fusegw.store.throttle import ThrottledStore


def open_store(
    options: StoreOptions,
    *,
    clock: Clock,
    entropy: Entropy,
    create: bool = False,
    policy: RetryPolicy = RetryPolicy(),
    counter: TrafficCounter | None = None,
) -> ObjectStore:
    """The store `options` describe, with bounded parallelism and retries.

    create: the first put may make a missing top directory. Never makes a bucket.
    counter: is told of each request that is made.
    Raises Invalid (options), Denied (no credentials), Unavailable (missing directory); an S3 server is first
    asked by the first request.
    """
    check_options(options)
    inner: ObjectStore
    directory = directory_of(options)
    if directory is not None:
        inner = DirectoryStore(directory, entropy=entropy, create=create)
    else:
        from fusegw.store.s3 import S3Store  # boto3 is slow to import: directory stores need not pay for it

        inner = S3Store(options)
    if counter is not None:
        inner = CountingStore(inner, counter)
    throttled = ThrottledStore(inner, requests_max=options.connections_max)
    return RetryingStore(throttled, clock=clock, entropy=entropy, policy=policy)
