"""The fail points: every step of the gateway that makes something durable, by name, and where it is found.

A point is one call at the edge of the gateway (a system call on its files, a commit of LMDB, a request to the
store), told apart from others of its kind by the functions it is made in, by the tables a commit writes, or
by the key of an object. A function that is renamed is found no more, and the test that all points are reached
says so. `scene` is the piece of a gateway's life in which the point is tried.
"""

import re

import msgspec

_SPOOL = "fusegw.packs.spool:OpenPack."
_LOG = "fusegw.ship.log:"
_TAKEOVER = "fusegw.ship.takeover:"
_RECOVER = "fusegw.ship.recover:"
_SPACE = "cache.space:Space."
_SAVE = "fusegw.meta.metadata:Metadata.save"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One step. `wrote` are tables of a commit, `+name` with rows put, `-name` with rows deleted."""

    name: str
    step: str
    """What it is, for the table of the documents."""
    scene: str
    call: str
    """See `tests.failpoints.injection`."""
    inside: tuple[str, ...] = ()
    """Functions, as module:name, that all are on the stack."""
    outside: tuple[str, ...] = ()
    """Functions none of which is."""
    wrote: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    """What the commit does not write."""
    key: str = ""
    """A pattern of object keys, or of the names of files."""
    times: int = 1
    """How often in a row it fails where it does not end the process: what tries again at once has to see two
    failures before it gives up."""

    def is_it(self, call: str, stack: set[str], wrote: set[str], key: str) -> bool:
        return (
            call == self.call
            and stack.issuperset(self.inside)
            and stack.isdisjoint(self.outside)
            and wrote.issuperset(self.wrote)
            and wrote.isdisjoint(self.left)
            and re.match(self.key, key) is not None
        )


def _saved(name: str, step: str, scene: str, *wrote: str, left: tuple[str, ...] = ()) -> Point:
    """A group commit; it is tried twice at once, the second time without the reserve."""
    return Point(
        name=name,
        step=step,
        scene=scene,
        call="commit",
        inside=(_SAVE,),
        wrote=frozenset(wrote),
        left=frozenset(left),
        times=2,
    )


def _written(name: str, step: str, scene: str, inside: tuple[str, ...], *wrote: str, **more: object) -> Point:
    """A commit of this gateway's own tables."""
    return msgspec.convert(
        {"name": name, "step": step, "scene": scene, "call": "commit", "inside": inside}
        | {"wrote": frozenset(wrote)}
        | more,
        Point,
    )


POINTS = (
    # What is written, up to the reply of fsync.
    Point(
        name="spool-create",
        step="new spool file",
        scene="writing",
        call="open",
        inside=(_SPOOL + "_open_file",),
    ),
    Point(
        name="record-append",
        step="records of a pack written",
        scene="writing",
        call="write",
        inside=(_SPOOL + "_write_out",),
    ),
    Point(
        name="spool-sync",
        step="fdatasync of the spool",
        scene="writing",
        call="sync",
        inside=(_SPOOL + "sync",),
    ),
    Point(
        name="spool-name",
        step="directory of a new spool file",
        scene="writing",
        call="sync-directory",
        inside=(_SPOOL + "sync",),
    ),
    _saved("commit", "LMDB commit of file data", "writing", "+extent", "+chunk"),
    _saved("commit-names", "LMDB commit of names alone", "writing", "+dirent", left=("+extent",)),
    # A pack's way into the store.
    Point(
        name="pack-close",
        step="footer of a pack",
        scene="writing",
        call="write",
        inside=(_SPOOL + "finish",),
        outside=(_SPOOL + "_write_out",),
    ),
    Point(
        name="pack-close-sync",
        step="fdatasync of a whole pack",
        scene="writing",
        call="sync",
        inside=(_SPOOL + "finish",),
    ),
    _saved("pack-closed", "commit: pack closed", "writing", "+pack_local", left=("+extent",)),
    Point(name="pack-put", step="pack PUT", scene="writing", call="put", key="packs/"),
    _saved("pack-stored", "commit: pack stored", "writing", "-pack_local", left=("-pack",)),
    _saved("pack-dropped", "commit: pack that died unstored", "dying", "-pack_local", "-pack"),
    Point(
        name="pack-discard",
        step="spool file of a dead pack deleted",
        scene="dying",
        call="unlink",
        inside=(_SPACE + "_unlink",),
    ),
    # The log's.
    _written(
        "segment-sealed",
        "commit: segment sealed",
        "writing",
        (_LOG + "seal_durably",),
        "+log_sealed",
        outside=(_TAKEOVER + "take_over",),
    ),
    Point(
        name="segment-put",
        step="segment PUT",
        scene="writing",
        call="put",
        key="log/",
        inside=(_LOG + "LogShipper._put",),
    ),
    _written(
        "segment-shipped",
        "commit: segment shipped",
        "writing",
        ("fusegw.meta.metadata:Metadata.write",),
        "-log_sealed",
        "-log_tail",
    ),
    # Checkpoints, and what they make superfluous.
    Point(
        name="checkpoint-part",
        step="checkpoint part PUT",
        scene="writing",
        call="put",
        key=r"checkpoints/.*/\d",
    ),
    Point(
        name="checkpoint-manifest",
        step="checkpoint manifest PUT",
        scene="writing",
        call="put",
        key="checkpoints/.*/manifest",
    ),
    Point(
        name="checkpoint-deleted",
        step="older checkpoint deleted: manifest",
        scene="writing",
        call="delete",
        key="checkpoints/.*/manifest",
    ),
    Point(
        name="checkpoint-deleted-parts",
        step="older checkpoint deleted: parts",
        scene="writing",
        call="delete",
        key=r"checkpoints/.*/\d",
    ),
    Point(name="log-pruned", step="older segments deleted", scene="writing", call="delete", key="log/"),
    # Collection.
    Point(
        name="rewrite-append",
        step="gc: records rewritten",
        scene="collecting",
        call="write",
        inside=(_SPOOL + "_write_out",),
    ),
    Point(
        name="rewrite-sync",
        step="gc: fdatasync of what was rewritten",
        scene="collecting",
        call="sync",
        inside=(_SPOOL + "sync",),
    ),
    _saved("rewrite-commit", "gc: commit of moved chunks", "collecting", "+chunk", left=("+extent",)),
    _saved("gc-condemned", "gc: commit of condemned packs", "collecting", "+condemned"),
    Point(
        name="gc-delete",
        step="gc: DELETE of packs",
        scene="collecting",
        call="delete",
        key="packs/",
        inside=("fusegw.collect.deletion:Deletion.delete",),
    ),
    _saved("gc-deleted", "gc: commit after the DELETE", "collecting", "-condemned"),
    _written(
        "orphans-looked",
        "gc: commit of orphans found",
        "collecting",
        ("fusegw.collect.orphans:look",),
        "+orphan",
    ),
    Point(
        name="orphans-delete",
        step="gc: DELETE of orphans",
        scene="collecting",
        call="delete",
        key="packs/ab/(ab){8}[0-9a-f]{16}",
    ),
    _written(
        "orphans-deleted",
        "gc: commit after that DELETE",
        "collecting",
        ("fusegw.collect.orphans:forget",),
        "-orphan",
    ),
    # The cache.
    Point(
        name="evict-punch",
        step="eviction of blocks",
        scene="evicting",
        call="punch",
        inside=(_SPACE + "_free_on_disk",),
    ),
    Point(
        name="evict-unlink",
        step="eviction of a whole file",
        scene="evicting",
        call="unlink",
        inside=(_SPACE + "_unlink",),
    ),
    Point(
        name="cache-fill",
        step="fetched blocks written into the cache",
        scene="evicting",
        call="write",
        inside=("cache.cache:PackCache.fill",),
    ),
    # Scrub and mending.
    _saved("scrub-kept", "commit: how far the scrub is", "scrubbing", "+local"),
    _saved("scrub-marked", "commit: chunks marked as damaged", "healing", "+damaged"),
    _saved("healed", "commit: damaged chunks whole again", "healing", "-damaged"),
    Point(
        name="mend-append",
        step="records mended from the cache",
        scene="mending",
        call="write",
        inside=(_SPOOL + "_write_out",),
    ),
    Point(
        name="mend-sync",
        step="fdatasync of them",
        scene="mending",
        call="sync",
        inside=(_SPOOL + "sync",),
    ),
    _saved("mend-commit", "commit of mended chunks", "mending", "+chunk", left=("+extent",)),
    # A start: the epoch, the spool of the run before.
    _written(
        "takeover-sealed",
        "commit: takeover segment sealed",
        "starting",
        (_TAKEOVER + "take_over", _LOG + "seal_durably"),
        "+log_sealed",
    ),
    Point(
        name="takeover-put",
        step="takeover segment PUT: the epoch is claimed",
        scene="starting",
        call="put",
        key="log/",
        inside=(_TAKEOVER + "take_over",),
    ),
    _written(
        "takeover-done",
        "commit: the epoch is ours",
        "starting",
        (_TAKEOVER + "take_over",),
        "-log_sealed",
        outside=(_LOG + "seal_durably",),
    ),
    Point(
        name="spool-recovery-cut",
        step="spool recovery: end cut off",
        scene="starting",
        call="cut",
        inside=("fusegw.packs.closing:complete",),
    ),
    Point(
        name="spool-recovery-write",
        step="spool recovery: footer",
        scene="starting",
        call="write",
        inside=("fusegw.packs.closing:complete",),
    ),
    Point(
        name="spool-recovery-sync",
        step="spool recovery: fdatasync",
        scene="starting",
        call="sync",
        inside=("fusegw.packs.closing:complete",),
    ),
    Point(
        name="spool-recovery-name",
        step="spool recovery: directory",
        scene="starting",
        call="sync-directory",
        inside=("fusegw.packs.closing:complete",),
    ),
    _written(
        "spool-recovery-commit",
        "spool recovery: commit",
        "starting",
        ("fusegw.ship.resume:resume",),
        times=2,
    ),
    Point(
        name="resend-put",
        step="segment of the run before PUT once more",
        scene="resending",
        call="put",
        key="log/",
        inside=(_TAKEOVER + "_send_again",),
    ),
    _written(
        "resend-done",
        "commit: that segment is shipped",
        "resending",
        (_TAKEOVER + "_send_again",),
        "-log_sealed",
    ),
    _written(
        "caught-up",
        "commit: an index that was behind, one position on",
        "catching-up",
        ("fusegw.ship.tail:Tail._apply",),
        "+local",
    ),
    Point(
        name="aside-packs",
        step="unsent packs moved aside",
        scene="setting-aside",
        call="rename",
        inside=("fusegw.index:_retire",),
        key=".*/[0-9a-f]{32}$",
    ),
    Point(
        name="aside-index",
        step="index with unsent changes moved aside",
        scene="setting-aside",
        call="rename",
        inside=("fusegw.index:_retire",),
        key=".*/meta$",
    ),
    # Recovery on a bare host.
    _written(
        "recovery-load",
        "recovery: commit of a checkpoint's rows",
        "recovering",
        ("fusegw.meta.load:Load._commit",),
    ),
    _written(
        "recovery-apply",
        "recovery: commit of a position of the log",
        "recovering",
        (_RECOVER + "_Replay.run",),
        "+local",
    ),
    Point(
        name="recovery-finish",
        step="recovery: the index is whole",
        scene="recovering",
        call="rename",
        inside=(_RECOVER + "recover",),
    ),
    Point(
        name="recovery-placed",
        step="recovery: the index takes its place",
        scene="recovering",
        call="rename",
        inside=("fusegw.recovery:_Recovering._make_true",),
        outside=("fusegw.registry:Registry._store",),
    ),
    Point(
        name="recovery-takeover",
        step="recovery: takeover segment PUT",
        scene="recovering",
        call="put",
        key="log/",
    ),
    Point(
        name="registry-sync",
        step="registry: fsync",
        scene="recovering",
        call="fsync",
        inside=("fusegw.registry:Registry._store",),
    ),
    Point(
        name="registry-rename",
        step="registry: rename",
        scene="recovering",
        call="rename",
        inside=("fusegw.registry:Registry._store",),
    ),
    # A new volume.
    Point(name="keys-put", step="key slots PUT", scene="creating", call="put", key="keys/"),
    Point(name="header-put", step="volume header PUT", scene="creating", call="put", key="volume$"),
    Point(
        name="registry-entered",
        step="registry: rename, at init",
        scene="creating",
        call="rename",
        inside=("fusegw.registry:Reservation.commit",),
    ),
)
BY_NAME = {point.name: point for point in POINTS}
SCENES = tuple(dict.fromkeys(point.scene for point in POINTS))
