"""The way of closed packs into the store, and the barrier that waits for it."""
