"""Does this store refuse to overwrite when told to? Fencing rests on it, so it is tried, not believed."""

from fusegw.clock import Entropy
from fusegw.errors import Exists, Invalid
from fusegw.store.base import ObjectStore


def probe_create_only(store: ObjectStore, entropy: Entropy) -> bool:
    """Whether a second create-only put of one name is refused and leaves the first one's bytes.

    Leaves nothing behind. Errors of the store (Denied, Unavailable, …) pass through.
    """
    key = f"probe/{entropy.token(16).hex()}"
    first, second = b"first", b"second"
    try:
        store.put(key, first)
    except Invalid:  # a server that refuses the condition itself
        return False
    try:
        try:
            store.put(key, second)
        except Exists:
            return store.get(key, size_max=len(second)) == first
        return False
    finally:
        store.delete([key])


def check_create_only(store: ObjectStore, entropy: Entropy, *, advice: str) -> None:
    """Invalid, with `advice` ("or …"), when two gateways would not be kept from each other in this store."""
    if not probe_create_only(store, entropy):
        raise Invalid(
            f"store {store.url} ignores conditional writes (If-None-Match): two gateways could overwrite "
            f"each other unseen; use a store that honours them, {advice}"
        )
