"""The command line of scripts/bench: chooses, checks, and hands the work to the others."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import click
import msgspec

from fusegw.cli import output
from fusegw.errors import FusegwError, Invalid
from fusegw.sizes import parse_size
from scripts.benchlib import machine, report, stores
from scripts.benchlib.contender import Participant, Reference
from scripts.benchlib.corpus import Recipe, provide
from scripts.benchlib.gateway import Gateway
from scripts.benchlib.memory import Memory
from scripts.benchlib.rclone import Rclone
from scripts.benchlib.references import Disk, Parallel, TwoThreads
from scripts.benchlib.repositories import Borg, Restic
from scripts.benchlib.results import STORES, Sample, rows
from scripts.benchlib.schedule import run_rounds, uninterrupted
from scripts.benchlib.shares import PLACES, SHARE_ACTS, SHARE_WORKLOADS, ShareOnDisk
from scripts.benchlib.workloads import COSTLY, WORKLOADS, chosen_acts

SHARES = [workload.name for workload in SHARE_WORKLOADS]
KNOWN = (*WORKLOADS, *SHARE_WORKLOADS)
GROUPS = {
    "shares": SHARES,
    "fio": [workload.name for workload in WORKLOADS if workload.name.startswith("fio-")],
}
"""Names for several workloads."""
ALL = [workload.name for workload in WORKLOADS]
USUAL = [name for name in ALL if name not in COSTLY]
PEERS: dict[str, type[Participant]] = {"restic": Restic, "borg": Borg, "rclone": Rclone}
REFERENCES: dict[str, type[Reference]] = {
    "two-threads": TwoThreads,
    "boto3": Parallel,
    "ext4": Disk,
    "memory": Memory,
}
OTHERS: dict[str, type[Participant]] = {**PEERS, **REFERENCES}
FILES = 11_500
DATA_DIRECTORY = "fusegw-bench-data"
_DATA_ROOM = 3.5
"""Both days, a restored file and the tree, in multiples of the large file."""
_COSTLY_ROOM = 5.0
"""One more file, and what fusegw keeps of that and of fio's writes, in cache and store."""
EXIT_INTERRUPTED = 130
_COUNT = click.IntRange(min=1)
_option = partial(click.option, show_default=True)


class Choice(msgspec.Struct, frozen=True):
    """What one run is to do, checked."""

    size_bytes: int
    files: int
    rounds: int
    only: list[str]
    peers: list[str]
    store: str

    @property
    def contenders(self) -> list[type[Participant]]:
        """fusegw and the others that are there and can use the store."""
        return [kind for kind in self.asked if self.store in kind.stores and kind.version() is not None]

    @property
    def asked(self) -> list[type[Participant]]:
        """fusegw and everybody named, there or not; a reference only with a workload for it."""
        others = (OTHERS[name] for name in self.peers)
        return [Gateway, *(kind for kind in others if self._has_work(kind))]

    def _has_work(self, kind: type[Participant]) -> bool:
        if not issubclass(kind, Reference):
            return True
        return self.store in kind.stores and not set(kind.workloads).isdisjoint(self.main)

    @property
    def needed_bytes(self) -> int:
        """Room on the disk, at most."""
        kinds = [*(self.contenders if self.main else ()), *(PLACES if self.shares else ())]
        more = 0.0 if set(COSTLY).isdisjoint(self.main) else _COSTLY_ROOM
        return int(self.size_bytes * (_DATA_ROOM + more + sum(kind.room for kind in kinds)))

    @property
    def main(self) -> list[str]:
        """The workloads that every contender does."""
        return [name for name in self.only if name not in SHARES]

    @property
    def shares(self) -> list[str]:
        """Those through shares."""
        return [name for name in self.only if name in SHARES]

    @property
    def participants(self) -> dict[str, str | None]:
        """Who is asked to take part, and which version takes part; None for what is not installed."""
        kinds = [*(self.asked if self.main else ()), *(PLACES if self.shares else ())]
        return {kind.name: kind.version() for kind in kinds}


def selection(text: str | None, *, everything: bool) -> list[str]:
    """The workloads that `--only` and `--all` choose, in their own order. Invalid names what there is not."""
    if text is None:
        return ALL if everything else USUAL
    names = ",".join(",".join(GROUPS.get(name.strip(), [name])) for name in text.split(","))
    chosen = names_of(names, [workload.name for workload in KNOWN], "workload")
    return [workload.name for workload in KNOWN if workload.name in {*chosen, *(ALL if everything else ())}]


def names_of(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names in a list with commas, in their own order; Invalid for one that is not `known`."""
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise Invalid(f"{', '.join(unknown)}: no such {what}; there are {', '.join(known)}")
    return [name for name in known if name in wanted]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@_option("--size", default="1G", help="Length of the large file.")
@_option("--files", default=FILES, type=_COUNT, help="Small files.")
@_option("--rounds", default=3, type=_COUNT, help="Times everything is done.")
@click.option(
    "--only",
    metavar="NAMES",
    help=f"Workloads to report, with commas: see --list; {' and '.join(GROUPS)} stand for several.  "
    f"[default: all but shares and {', '.join(COSTLY[:2])}, fio]",
)
@click.option("--all", "everything", is_flag=True, help="All workloads but those through shares.")
@click.option("--list", "listing", is_flag=True, help="List the workloads and their targets, and do nothing.")
@_option("--peers", default=",".join(OTHERS), help="Whom to compare with; '' for nobody.")
@_option(
    "--store",
    default=STORES[0],
    type=click.Choice(STORES),
    help="Where data goes: s3 starts a Ceph RADOS Gateway by scripts/rgw.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Work in DIR, and leave the data made there for the next run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with all samples.")
def bench(
    size: str,
    files: int,
    rounds: int,
    only: str | None,
    everything: bool,
    listing: bool,
    peers: str,
    store: str,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Run fusegw and other programs on the same work, in turns, and compare.

    Prints medians over the rounds, in brackets fusegw's figure by that one, and the targets. Peers that are
    not installed are left out. As root page caches are dropped before reads.
    """
    if listing:
        report.print_workloads(KNOWN)
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        choice = Choice(
            parse_size(size),
            files,
            rounds,
            selection(only, everything=everything),
            names_of(peers, list(OTHERS), "peer"),
            store,
        )
        samples: list[Sample] = []
        try:
            _measure(choice, keep, samples)
        finally:
            if samples:
                _print(choice, samples, as_json=as_json)
    except FusegwError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("bench: interrupted; everything it started has ended", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _measure(choice: Choice, keep: Path | None, samples: list[Sample]) -> None:
    workloads = {workload.name: workload for workload in KNOWN}

    def take(sample: Sample) -> None:
        if sample.workload in choice.only:
            samples.append(sample)
            report.print_progress(sample, workloads[sample.workload], choice.rounds)

    with _directories(choice, keep) as (data, work):
        _say(f"data in {data}, work in {work}")
        if not machine.forget_pages():
            _say("not root: page caches stay as they are, and reads are not cold")
        corpus = provide(data, Recipe(choice.size_bytes, choice.files))
        with _stores(choice, work) as places:
            run = partial(run_rounds, corpus=corpus, rounds=choice.rounds, stores=places, report=take)
            if choice.main:
                run(choice.contenders, chosen_acts(choice.main), directory=work / "contenders")
            if choice.shares:
                if ShareOnDisk.version() is None:
                    raise Invalid(
                        "shares need smbd, nfs-ganesha and their clients: scripts/run --shares installs them"
                    )
                for directory in (work, work / "shares"):
                    directory.mkdir(exist_ok=True)
                    directory.chmod(0o711)  # users of shares must get through
                run(PLACES, chosen_acts(choice.shares, SHARE_ACTS), directory=work / "shares")


def _stores(choice: Choice, work: Path) -> AbstractContextManager[stores.Stores]:
    if choice.store == "s3":
        return stores.rados_gateway(work / "rgw", 2 * choice.needed_bytes)
    return nullcontext(stores.Directories(work / "stores"))


@contextmanager
def _directories(choice: Choice, keep: Path | None) -> Iterator[tuple[Path, Path]]:
    """Where the data lies and where everything else happens; the latter is removed in the end."""
    if keep is None:
        parent = machine.choose_directory(choice.needed_bytes)
    else:
        keep.mkdir(parents=True, exist_ok=True)
        parent = keep.resolve()
        machine.check_room(parent, choice.needed_bytes)
    work = Path(tempfile.mkdtemp(prefix="fusegw-bench-", dir=parent))
    try:
        yield (work if keep is None else parent) / DATA_DIRECTORY, work
    finally:
        with uninterrupted():
            shutil.rmtree(work)


def _print(choice: Choice, samples: list[Sample], *, as_json: bool) -> None:
    table = rows([workload for workload in KNOWN if workload.name in choice.only], samples, choice.store)
    versions = choice.participants
    if as_json:
        output.print_json(report.document(table, samples, versions, msgspec.to_builtins(choice)))
    else:
        references = [kind.name for kind in REFERENCES.values() if kind.name in versions]
        report.print_table(table, versions, references)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
