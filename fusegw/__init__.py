"""fusegw: a storage gateway that keeps backups in an object store.

The package is cut in layers; `docs/architecture.md` names them and the way imports go.
"""

__version__ = "0.1.0"
