"""Messages of the control socket: what a command may ask of a running gateway, and what it answers.

One JSON object per line, UTF-8, at most `LINE_BYTES_MAX` with its newline. A client sends a `Request`; the
gateway answers with any number of `Progress` lines and then exactly one `Result` or `Failure`; then the
client may send the next request. A failure carries the name of a class in `fusegw.errors`, so a command
ends with the same exit code as if the error had happened in it. Unknown fields are ignored on both
sides: a command and a gateway of neighbouring versions understand each other.

The one secret that crosses the socket is the password hash of a new user of shares; no answer holds it.
"""

from typing import Literal, TypeVar

import msgspec

import fusegw.errors
from exports.model import Share, User
from exports.status import ServerStatus
from fusegw.control.snapshots import CloneWish, DiffWish, ScheduleStatus, ScheduleWish, SnapshotChange
from fusegw.errors import FusegwError
from fusegw.metering import Period

LINE_BYTES_MAX = 1 << 20

Method = Literal[
    "status",
    "file_status",
    "cache_stats",
    "cache_drop",
    "traffic",
    "sync",
    "promote",
    "mend",
    "collect",
    "shares",
    "change_shares",
    "quotas",
    "change_quota",
    "snapshots",
    "snapshot",
    "change_snapshots",
    "clone",
    "diff",
    "schedule",
    "change_schedule",
    "shutdown",
]
_Reply = TypeVar("_Reply")


class PutShare(msgspec.Struct, frozen=True, tag_field="change", tag="put_share"):
    """A share of the volume asked, new or (`edit`) in the place of the one of its name."""

    share: Share
    edit: bool = False


class RemoveShare(msgspec.Struct, frozen=True, tag_field="change", tag="remove_share"):
    """A share of the volume asked goes away."""

    name: str


class PutUser(msgspec.Struct, frozen=True, tag_field="change", tag="put_user"):
    """A user of the volume asked, new or (`edit`) in the place of the one of its name."""

    user: User
    edit: bool = False


class RemoveUser(msgspec.Struct, frozen=True, tag_field="change", tag="remove_user"):
    """A user of the volume asked goes away."""

    name: str


ShareChange = PutShare | RemoveShare | PutUser | RemoveUser


class MendItem(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that a check looked at."""

    number: int
    pack: int
    """Number of the pack it lay in then."""
    good: bool = False
    """The store has its bytes as they were sealed; else they are damaged or missing there."""


class CollectWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection is to do."""

    preview: bool = False
    """Only tell what it would do."""
    budget_bytes: int | None = None
    """Data in sparse packs that is rewritten at most; None: all that is worth it."""
    orphans: bool = False
    """Look for objects that no metadata knows, whether it is time for that or not."""


class QuotaWish(msgspec.Struct, frozen=True, kw_only=True):
    """A directory, by its path from the volume's root or by its inode, and what its quota is to be."""

    path: str = ""
    """As "/a/b"; "/" is the volume as a whole. Empty: the inode counts."""
    inode: int = 0
    bytes_max: int | None = None
    """None: as it was; 0: no limit."""
    files_max: int | None = None
    remove: bool = False
    """Take the quota away."""


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question; `wait` is read by `sync` alone, `inode` by `file_status` alone, `change` by
    `change_shares` alone, `quota` by `change_quota` alone, `chunks` and `repair` by `mend` alone, `collect`,
    `snapshot` (a name), `clone` and `diff` by the methods of those names, `snapshot_change` by
    `change_snapshots` alone, `schedule` by `change_schedule` alone."""

    method: Method
    wait: bool = False
    inode: int = 0
    change: ShareChange | None = None
    chunks: tuple[MendItem, ...] = ()
    repair: bool = False
    collect: CollectWish = CollectWish()
    quota: QuotaWish = QuotaWish()
    snapshot: str = ""
    snapshot_change: SnapshotChange | None = None
    clone: CloneWish = CloneWish()
    diff: DiffWish = DiffWish()
    schedule: ScheduleWish | None = None


class StoreHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What the last requests to the store say about it."""

    state: Literal["ok", "degraded", "down"] = "ok"
    """degraded: some requests fail and are tried again; down: none has succeeded for a while."""
    last_error: str | None = None
    since_unix_s: float | None = None
    """When it left "ok", in seconds since 1970; None while "ok"."""


class ScrubStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far packs were read back from the store in the background. Counters run since the mount."""

    pass_done: float | None
    """Of the present pass over all packs, 0 to 1; None for an empty volume."""
    passes: int
    """That came to their end."""
    last_pass_unix_s: float | None
    """When the last one did; None before."""
    packs: int
    """Read, new ones and those in turn."""
    read_bytes: int
    damaged_chunks: int
    """Found, those included that were stored anew from the cache."""
    mended_chunks: int
    problems: tuple[str, ...] = ()
    """The newest ones."""
    last_error: str | None = None
    """Why it does not get on at present."""


class QuotaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A quota, and what counts for it."""

    path: str | None
    """Of its directory, from the volume's root on; "/" is the volume. None: in no tree at present."""
    inode: int
    """Of its directory."""
    state: Literal["active", "counting", "removing"]
    """counting: the files that were there before are still being counted, nothing is refused; removing:
    nothing is refused any more."""
    bytes_max: int | None
    """None: no limit."""
    bytes_used: int
    """Data of files without holes, before deduplication and compression."""
    files_max: int | None
    files_used: int
    """Files and directories of every kind, the quota's own directory among them."""


class QuotasReply(msgspec.Struct, frozen=True, kw_only=True):
    """The quotas of a volume, the volume's own first."""

    quotas: tuple[QuotaStatus, ...]


class StatusReply(msgspec.Struct, frozen=True, kw_only=True):
    """How a mounted volume is doing. Bytes are stored (compressed, sealed) bytes unless said otherwise."""

    pid: int
    volume: str
    mountpoint: str
    store_url: str
    read_only: bool
    epoch: int
    backlog_bytes: int
    """Accepted but not yet in the store."""
    oldest_unshipped_s: float | None
    """Age of the oldest change that is not yet in the store; None when everything is."""
    ingest_rate_bytes_s: float
    upload_rate_bytes_s: float
    eta_s: float | None
    """Time until the backlog is shipped at the present rate; None when nothing moves."""
    store_health: StoreHealth
    files: int
    """Inodes in use, of every kind."""
    open_files: int
    logical_bytes: int
    """Sum of the file sizes."""
    stored_bytes: int
    """Size of all packs, in the store or on the way."""
    metadata_bytes: int
    log_seq: int = 0
    """Newest log segment that this gateway knows to be in the store."""
    anchor: str | None = None
    """That position as EPOCH:SEGMENT:HASH (`fusegw.ship.anchor`); None before the first segment."""
    checkpoint_seq: int | None = None
    """Log segment at which the newest checkpoint was taken; None without one."""
    checkpoint_age_s: float | None = None
    """Age of the state in it."""
    fenced: str | None = None
    """Why this gateway changes nothing any more: who took the volume over."""
    hook_last_error: str | None = None
    """Why the newest event could not be told to all hooks; None when it was."""
    follows: bool = False
    """Whether it is a standby: it shows what another gateway ships, `log_seq` is the position shown."""
    follow_lag_s: float | None = None
    """Seconds since it was known to show all that the store had; None when it follows nobody."""
    behind_segments: int | None = None
    """Log segments in the store that are not shown yet, as far as known."""
    follow_error: str | None = None
    """What keeps it from following at present."""
    scrub: ScrubStatus | None = None
    """None where nothing is scrubbed: switched off, or not written here."""
    dead_bytes: int | None = None
    """In packs, what no file uses any more, as of the last collection; None before the first."""
    condemned_bytes: int | None = None
    """Packs in which nothing is alive, deleted once no kept state needs them; likewise."""
    gc_last_unix_s: float | None = None
    """When the last collection ended, in seconds since 1970; None: none since the mount."""
    gc_running: bool = False
    gc_deleted_bytes: int = 0
    """What collections deleted since the mount."""
    gc_error: str | None = None
    """Why the last one ended before its end; None when it did not."""
    snapshots: int = 0
    newest_snapshot: str | None = None
    """Its name; None without."""
    newest_snapshot_unix_s: float | None = None
    """When it was made, in seconds since 1970."""
    deleted_snapshots: int = 0
    """Deleted ones of which not everything is freed yet."""
    snapshot_schedule: ScheduleStatus | None = None
    """None without one."""
    servers: tuple[ServerStatus, ...] = ()
    """Of the gateway's shares, by protocol; those that offer nothing are left out."""
    share_problems: tuple[str, ...] = ()
    """Shares and users of the volume that are not served, and why."""
    quotas_near: tuple[QuotaStatus, ...] = ()
    """Quotas of which 90 % are used, or more."""


class FileStatusReply(msgspec.Struct, frozen=True, kw_only=True):
    """How safe one file of a mounted volume is."""

    state: Literal["local", "shipping", "stored"]
    """As the file's attribute `user.fusegw.state`."""
    size_bytes: int
    unstored_bytes: int
    """Content that only this gateway has; 0 too when nothing but metadata is not in the store yet."""
    oldest_unshipped_s: float | None
    """Of the whole volume: age of the oldest change that is not in the store; None when everything is."""


class CacheStatsReply(msgspec.Struct, frozen=True, kw_only=True):
    """The local cache and what deduplication and compression save. Counters run since the mount."""

    used_bytes: int
    budget_bytes: int
    dirty_bytes: int
    """Not yet in the store, hence not evictable."""
    hits: int
    misses: int
    hit_bytes: int
    miss_bytes: int
    evictions: int
    evicted_bytes: int
    hit_ratio: float | None
    """hits / (hits + misses); None before the first read."""
    dedup_ratio: float | None
    """Bytes of file content (without holes) per byte of distinct chunks; None for an empty volume."""
    compression_ratio: float | None
    """Raw bytes of distinct chunks per byte stored; None for an empty volume."""


class CacheDropReply(msgspec.Struct, frozen=True, kw_only=True):
    """What dropping the evictable part of the cache freed."""

    freed_bytes: int


class TrafficReply(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of the store."""

    since_mount: Period
    total: Period
    """Since this host knows the volume."""


class PromoteReply(msgspec.Struct, frozen=True, kw_only=True):
    """The standby is the writer now."""

    epoch: int
    """Of its reign."""
    log_seq: int
    """The segment that began it."""
    took_s: float


class MendReply(msgspec.Struct, frozen=True, kw_only=True):
    """What became of damaged chunks."""

    whole: tuple[int, ...]
    """Numbers of those that are whole now, or that nobody needs any more."""
    marked: int
    """The others: out of the dedup index, to be stored anew by the next write of the same data."""


class CollectReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection did, or would do. Bytes are stored bytes."""

    preview: bool
    deleted_packs: int
    deleted_bytes: int
    deleted_orphans: int
    """Objects that no metadata knew."""
    deleted_orphan_bytes: int
    condemned_packs: int
    """Packs in which nothing is alive from now on: deleted once no kept state needs them."""
    condemned_bytes: int
    rewritten_packs: int
    rewritten_chunks: int
    written_bytes: int
    read_bytes: int
    read_requests: int
    put_requests: int
    """Packs written, about; for a preview at least."""
    delete_requests: int
    complete: bool
    """Whether all that is worth rewriting was; otherwise the budget or the cache's room came to an end."""
    stored_bytes: int
    """Of all packs that are not condemned, afterwards."""
    dead_bytes: int
    """Of them, what no file uses."""
    waiting_packs: int
    """Condemned and still in the store."""
    waiting_bytes: int
    orphans: int
    """Objects that no metadata knows, as of the last look."""
    orphan_bytes: int


class SharesReply(msgspec.Struct, frozen=True, kw_only=True):
    """The shares and users of one volume; users without their hashes."""

    shares: tuple[Share, ...]
    users: tuple[User, ...]


class SyncReply(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sync stands: with `wait`, all that was acknowledged before it is in the store."""

    complete: bool
    backlog_bytes: int


class SyncProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How much a waiting sync still has to ship; how far a collection is; otherwise a sign of life."""

    backlog_bytes: int
    upload_rate_bytes_s: float
    store_health: StoreHealth = StoreHealth()
    collected_bytes: int = 0
    """Rewritten by the collection that runs."""
    collect_total_bytes: int = 0
    """To be rewritten by it, as far as known."""


class ShutdownReply(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway has begun to unmount; it has ended when its lock is free."""

    pid: int


class Progress(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """A line before the answer."""

    progress: SyncProgress


class Result(msgspec.Struct, frozen=True, tag_field="kind", tag="result"):
    """The answer; its type follows from the method asked."""

    result: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, tag_field="kind", tag="failure"):
    """The answer when it did not work."""

    error: str
    """Name of a class in `fusegw.errors`."""
    message: str


Line = Progress | Result | Failure

_ENCODER = msgspec.json.Encoder()
_REQUESTS = msgspec.json.Decoder(Request)
_LINES: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def encode_request(request: Request) -> bytes:
    """One line, newline included."""
    return _ENCODER.encode(request) + b"\n"


def decode_request(line: bytes) -> Request:
    """The request in `line`; Invalid when it is none."""
    try:
        return _REQUESTS.decode(line)
    except msgspec.DecodeError as error:
        raise fusegw.errors.Invalid(f"control request not understood: {error}") from None


def encode_result(reply: msgspec.Struct) -> bytes:
    """A `Result` line around `reply`, newline included."""
    return _ENCODER.encode(Result(msgspec.Raw(_ENCODER.encode(reply)))) + b"\n"


def encode_progress(progress: SyncProgress) -> bytes:
    """A `Progress` line, newline included."""
    return _ENCODER.encode(Progress(progress)) + b"\n"


def encode_failure(error: FusegwError) -> bytes:
    """A `Failure` line, newline included; a very long message is cut."""
    message = str(error)[: LINE_BYTES_MAX // 16]
    return _ENCODER.encode(Failure(fusegw.errors.class_name(error), message)) + b"\n"


def decode_line(line: bytes) -> Line:
    """What the gateway sent; Invalid when it is not of this protocol."""
    try:
        return _LINES.decode(line)
    except msgspec.DecodeError as error:
        raise fusegw.errors.Invalid(f"reply of the gateway not understood: {error}") from None


def decode_result(result: Result, kind: type[_Reply]) -> _Reply:
    """The answer as the type that belongs to the method; Invalid when it does not fit."""
    try:
        return msgspec.json.decode(result.result, type=kind)
    except msgspec.DecodeError as error:
        raise fusegw.errors.Invalid(f"reply of the gateway not understood: {error}") from None


def error_of(failure: Failure) -> FusegwError:
    """The exception a `Failure` stands for; an unknown name becomes the root class."""
    kind = getattr(fusegw.errors, failure.error, FusegwError)
    if not (isinstance(kind, type) and issubclass(kind, FusegwError)):
        kind = FusegwError
    return kind(failure.message)
