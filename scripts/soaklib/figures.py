"""What a soak has done so far, as a line for people."""

from collections import Counter

import msgspec

from fusegw.cli.output import size as size_text


class Figures(msgspec.Struct):
    """Counts since the start."""

    phases: Counter[str] = msgspec.field(default_factory=Counter)
    barriers: int = 0
    barriers_failed: int = 0
    """Those that said that not everything is in the store."""
    kills: int = 0
    hosts_lost: int = 0
    mounts_refused: int = 0
    """For want of an answer of the store; tried again."""
    compared_files: int = 0
    compared_bytes: int = 0
    corrupted_files: int = 0
    """Files of the cache."""
    collections: int = 0
    checks: int = 0
    scrubbed_packs: int = 0

    def line(self, *, steps: int, fsyncs: int, written: int, refused: int, faults: Counter[str]) -> str:
        """All figures; those given come from elsewhere."""
        return ", ".join(
            (
                f"{self.phases.total()} phases",
                f"{steps:,} steps",
                f"{fsyncs:,} fsyncs",
                f"{size_text(written)} written",
                f"{self.barriers} barriers and {self.barriers_failed} that failed",
                f"{self.compared_files:,} files with {size_text(self.compared_bytes)} compared",
                f"{self.kills} kills",
                f"{self.hosts_lost} hosts lost",
                f"{faults.total()} faults of the store",
                f"{self.mounts_refused} mounts refused",
                f"{refused} steps without room",
                f"{self.corrupted_files} cache files corrupted",
                f"{self.collections} collections",
                f"{self.checks} checks",
                f"{self.scrubbed_packs} packs scrubbed",
            )
        )
