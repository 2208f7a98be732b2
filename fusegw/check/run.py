"""A check: is the volume whole, and if not, which files suffer?

Index → packs in the store's list → log and checkpoints → records, as many as asked for → what seemed wrong is
looked at once more → what can be mended is → the files that suffer get their names.

Nothing is changed but by `mend`. Memory does not grow with the data but for some tens of bytes a chunk and
an inode. A view of the index is held for the first step only; records are read in the order of their
numbers, a few thousand to a view, so a gateway beside it is not held up. `whole` is true when nothing was
found; what a check did not read, it does not vouch for.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from fusegw.check.damages import Damage, Damages
from fusegw.check.draw import WHOLE, draw
from fusegw.check.index import check_index
from fusegw.check.log import check_log, refuse_if_behind
from fusegw.check.numbers import Numbers
from fusegw.check.packs import Packs, compare_packs, frame_problem, suffering
from fusegw.check.reading import Verdict, store_reader, verify
from fusegw.clock import Clock
from fusegw.errors import Busy, NotFound
from fusegw.keys.hierarchy import VolumeKeys
from fusegw.meta.schema import CHUNK, PACK, PACK_LOCAL, STATE, STATE_FILES, STATE_ROLLBACK, Chunk, Pack
from fusegw.meta.view import View
from fusegw.packs.files import PackFiles
from fusegw.packs.format import object_key
from fusegw.store.base import ObjectStore
from fusegw.store.readonly import ReadOnlyStore
from fusegw.vfs.contents import Piece
from fusegw.vfs.loads import chunk_ref
from fusegw.vfs.mending import Suspect

OnProgress = Callable[[str, float, float | None], None]
"""Gets what is being done, how much of it, and how much there is (None: not known)."""
_TURN_ROWS = 4096
_TRIM_ROWS = 1 << 16
_LOOKS = 2
"""At what seemed wrong, before it counts."""
_PAUSE_S = 1.0


Mend = Callable[[Sequence[Suspect]], set[int]]
"""Does what can be done for these chunks; gives the numbers of those that are whole now."""


class Check(msgspec.Struct, frozen=True):
    """What a check needs."""

    views: Callable[[], View]
    """The newest commit of the index, each time anew."""
    store: ObjectStore
    keys: VolumeKeys
    clock: Clock
    wait: Callable[[float], None]
    """Sleep so many seconds."""
    trim: Callable[[], None] = lambda: None
    """Called now and then: let go of the memory of what was read of the index."""
    places: Sequence[Path] = ()
    """Where packs lie that are not in the store yet."""
    share: float = 0.0
    """Of the records that are read, 0 to 1."""
    seed: int = 0
    """Chooses which."""
    rate_bytes_s: float | None = None
    """Bound on what is read of packs."""
    files_max: int = 20
    """Files that are named for one object."""
    is_newest: bool = True
    """The index has to know all of the log: it is none that follows another gateway, or stays at an older
    position."""


class Report(msgspec.Struct, kw_only=True):
    """What a check found."""

    whole: bool = False
    damage: list[Damage] = []
    store_url: str
    files: int = 0
    """Inodes with a name."""
    chunks: int = 0
    packs: int = 0
    """Needed, and looked for in the store."""
    packs_unknown: int = 0
    """Objects that the index does not know; they harm nobody, and collection frees them."""
    packs_unknown_bytes: int = 0
    checkpoints: int = 0
    segments: int = 0
    chunks_read: int = 0
    bytes_read: int = 0
    """Stored bytes fetched and verified."""
    seed: int = 0
    damaged_chunks: int = 0
    """That are damaged or lost, after mending."""
    mended_chunks: int = 0
    """That were, and are whole now."""
    check_s: float = 0.0


def run(
    check: Check,
    *,
    mend: Mend = lambda suspects: set(),
    on_progress: OnProgress = lambda what, done, total: None,
) -> Report:
    """Blocking. Damage is in the report; what says nothing about the volume (Unavailable, Denied, …) is
    raised, Invalid when the index is older than the store's log, Busy while a rollback is unfinished."""
    return _Run(check, on_progress).run(mend)


class _Run:
    """One check on its way."""

    def __init__(self, check: Check, on_progress: OnProgress) -> None:
        self._check = check
        self._on_progress = on_progress
        self._store = ReadOnlyStore(check.store)
        self._damages = Damages(files_max=check.files_max)
        self._report = Report(store_url=check.store.url, seed=check.seed)
        self._unstored: set[str] = set()
        """Names of packs that are read where they lie."""
        files = PackFiles(check.places, only=self._unstored)
        self._reader = store_reader(self._store, check.keys, files)
        self._begun_reading = 0.0
        self._asked_bytes = 0
        self._trimmed = 0
        self._good: list[Suspect] = []

    def run(self, mend: Mend) -> Report:
        check, report = self._check, self._report
        begun = check.clock.monotonic()
        if check.is_newest:
            refuse_if_behind(check.views, self._store)
        with check.views() as view:
            if view.sound_row(STATE, STATE_ROLLBACK) is not None:
                raise Busy(
                    "a rollback of the volume is not finished: wait for it, or mount the volume for writing, "
                    "which finishes it; then check"
                )
            data = check_index(view, self._damages, self._read_rows)
            state = view.sound_row(STATE, STATE_FILES)
            report.files, report.chunks = int.from_bytes(state or b"", "big"), len(data.chunks)
            total, marked = data.stored, data.marked
        del data
        self._on_progress("looking for packs", 0, None)
        with check.views() as view:
            packs = compare_packs(view, self._store, self._damages)
        logged = check_log(
            check.views,
            self._store,
            check.keys,
            self._damages,
            lambda done: self._on_progress("reading the log", done, None),
            read=check.share > 0,
            is_newest=check.is_newest,
        )
        report.checkpoints, report.segments = logged.checkpoints, logged.segments
        self._judge_missing(packs)
        report.packs, report.packs_unknown = packs.needed, len(packs.unknown)
        report.packs_unknown_bytes = sum(packs.unknown.values())
        broken: dict[int, tuple[int, str]] = {}
        if check.share > 0 or packs.broken or len(marked):
            broken = self._read(packs, marked, total)
        if check.share >= 1:
            self._check_frames(packs)
        self._settle(broken, packs, mend)
        report.check_s = check.clock.monotonic() - begun
        return report

    def _read_rows(self, done: int, total: int) -> None:
        self._on_progress("reading the index", done, total)
        if done - self._trimmed >= _TRIM_ROWS:
            self._trimmed = done
            self._check.trim()

    def _judge_missing(self, packs: Packs) -> None:
        """A pack that went meanwhile because nobody needs it any more is not missing, one that came is not
        unknown."""
        with self._check.views() as view:
            if packs.unknown:
                for _, known in view.sound(PACK):
                    packs.unknown.pop(object_key(known.pack_id), None)
            for number in sorted(packs.broken):
                pack = view.sound_row(PACK, number)
                if pack is not None and pack.live and self._is_broken(pack):
                    continue
                self._damages.forget(packs.broken.pop(number))
                packs.missing.discard(number)

    def _is_broken(self, pack: Pack) -> bool:
        try:
            return self._store.head(object_key(pack.pack_id)).size != pack.size
        except NotFound:
            return True

    def _read(self, packs: Packs, marked: Numbers, total: int) -> dict[int, tuple[int, str]]:
        """Read what is to be read; by chunk number, the pack of each broken chunk and what is wrong."""
        share = self._check.share
        self._begun_reading = self._check.clock.monotonic()

        def wanted(number: int, chunk: Chunk) -> bool:
            if chunk.pack in packs.missing:
                return False
            if share >= 1 or chunk.pack in packs.broken or number in marked:
                return True
            return share > 0 and draw(self._check.seed, number) < WHOLE * share

        suspects: dict[int, tuple[int, str]] = {}
        for number, piece, verdict in self._verified(self._pieces(wanted)):
            if verdict is not None:
                suspects[number] = (_pack_of(piece), str(verdict))
            elif number in marked:
                self._good.append(Suspect(number, _pack_of(piece), good=True))
            self._on_progress("reading records", self._report.bytes_read, max(total * share, 1))
        for _ in range(_LOOKS):
            if not suspects:
                break
            self._check.wait(_PAUSE_S)
            again: dict[int, tuple[int, str]] = {}
            for number, piece, verdict in self._verified(self._pieces_of(sorted(suspects))):
                if verdict is not None:
                    again[number] = (_pack_of(piece), str(verdict))
            suspects = again
        return suspects

    def _check_frames(self, packs: Packs) -> None:
        """Of packs that are there in their size, what is no record: files do not suffer, recovery may."""
        with self._check.views() as view:
            unstored = {number for number, _ in view.sound(PACK_LOCAL)}
            there = [
                number
                for number, pack in view.sound(PACK)
                if pack.live and number not in packs.broken and number not in unstored
            ]
        for done, number in enumerate(there):
            self._on_progress("looking at packs", done, len(there))
            with self._check.views() as view:
                pack = view.sound_row(PACK, number)
            if pack is None or not pack.live:
                continue
            try:
                problem = frame_problem(self._store, self._check.keys, pack)
            except NotFound as error:
                problem = str(error)
            if problem is not None:
                self._damages.of(object_key(pack.pack_id), problem)

    def _verified(self, jobs: Iterator[tuple[int, Piece]]) -> Iterator[tuple[int, Piece, Verdict]]:
        for batch in verify(self._reader, jobs):
            for number, piece, verdict in batch:
                assert piece.ref is not None
                self._report.chunks_read += 1
                self._report.bytes_read += piece.ref.location.stored
                yield number, piece, verdict

    def _pieces(self, wanted: Callable[[int, Chunk], bool]) -> Iterator[tuple[int, Piece]]:
        """The chunks that are wanted, in the order of their numbers, some thousand rows to a view."""
        start = 0
        while True:
            turn: list[tuple[int, Piece]] = []
            rows = 0
            with self._check.views() as view:
                self._look_at_unstored(view)
                for number, chunk in view.sound(CHUNK, start):
                    start, rows = number + 1, rows + 1
                    if wanted(number, chunk):
                        turn += self._piece(view, number, chunk)
                    if rows >= _TURN_ROWS:
                        break
            yield from self._slowed(turn)
            if rows < _TURN_ROWS:
                return
            self._check.trim()

    def _pieces_of(self, numbers: Sequence[int]) -> Iterator[tuple[int, Piece]]:
        """These chunks, where they lie now; those that are gone are left out."""
        for first in range(0, len(numbers), _TURN_ROWS):
            turn: list[tuple[int, Piece]] = []
            with self._check.views() as view:
                self._look_at_unstored(view)
                for number in numbers[first : first + _TURN_ROWS]:
                    chunk = view.sound_row(CHUNK, number)
                    if chunk is not None:
                        turn += self._piece(view, number, chunk)
            yield from self._slowed(turn)

    def _look_at_unstored(self, view: View) -> None:
        packs = [view.sound_row(PACK, number) for number, _ in view.sound(PACK_LOCAL)]
        self._unstored.clear()
        self._unstored.update(pack.pack_id.hex() for pack in packs if pack is not None)

    def _piece(self, view: View, number: int, chunk: Chunk) -> list[tuple[int, Piece]]:
        pack = view.sound_row(PACK, chunk.pack)
        if pack is None:
            return []  # The index was found damaged there.
        return [(number, Piece(0, chunk.raw, number, 0, chunk_ref(chunk, pack)))]

    def _slowed(self, turn: list[tuple[int, Piece]]) -> Iterator[tuple[int, Piece]]:
        """No faster than the rate allows."""
        rate, check = self._check.rate_bytes_s, self._check
        for number, piece in turn:
            assert piece.ref is not None
            if rate:
                ahead = self._asked_bytes / rate - (check.clock.monotonic() - self._begun_reading)
                if ahead > 0:
                    check.wait(ahead)
            self._asked_bytes += piece.ref.location.stored
            yield number, piece

    def _settle(self, suspects: dict[int, tuple[int, str]], packs: Packs, mend: Mend) -> None:
        """Mend what can be mended, and name the files that need the rest."""
        report = self._report
        with self._check.views() as view:
            if packs.missing:
                for number, chunk in view.sound(CHUNK):
                    if chunk.pack in packs.missing:
                        suspects[number] = (chunk.pack, f"object {packs.broken[chunk.pack]} is missing")
        mended = set()
        if suspects or self._good:
            everything = [Suspect(number, pack) for number, (pack, _) in sorted(suspects.items())]
            self._on_progress("mending", 0, None)
            mended = mend([*everything, *self._good])
        report.mended_chunks = len(mended & suspects.keys())
        for number in mended:
            suspects.pop(number, None)
        report.damaged_chunks = len(suspects)
        with self._check.views() as view:
            self._name(view, suspects, packs)
            report.damage = self._damages.named(view)
        report.whole = not report.damage

    def _name(self, view: View, suspects: dict[int, tuple[int, str]], packs: Packs) -> None:
        keys = {pack: "" for pack, _ in suspects.values()}
        for number in keys:
            row = view.sound_row(PACK, number)
            keys[number] = object_key(row.pack_id) if row is not None else f"pack {number:#x}"
        for number, key in packs.broken.items():
            row = view.sound_row(PACK, number)
            if row is None or not row.live:
                self._damages.forget(key)  # All that lived in it was sealed anew elsewhere.
        for pack, problem in suspects.values():
            self._damages.of(keys[pack], problem)
        if suspects:
            for ino, number in suffering(view, suspects.__contains__):
                pack, problem = suspects[number]
                self._damages.of(keys[pack], problem).needed_by(ino)


def _pack_of(piece: Piece) -> int:
    assert piece.ref is not None
    return piece.ref.location.pack
