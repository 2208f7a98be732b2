"""How a quota is told to people."""

from fusegw.cli import output
from fusegw.control.protocol import QuotaStatus


def quota_use(quota: QuotaStatus) -> str:
    """What is used, of what limits there are, on one line."""
    return "; ".join((bytes_use(quota), files_use(quota)))


def bytes_use(quota: QuotaStatus) -> str:
    """ "1.5 GiB of 10.0 GiB (15.0 %)", "1.5 GiB"."""
    text = output.size(quota.bytes_used)
    if quota.bytes_max is None:
        return text
    share = output.ratio(quota.bytes_used / quota.bytes_max, percent=True)
    return f"{text} of {output.size(quota.bytes_max)} ({share})"


def files_use(quota: QuotaStatus) -> str:
    """ "15 of 100 files (15.0 %)", "15 files"."""
    if quota.files_max is None:
        return f"{quota.files_used:,} files"
    share = output.ratio(quota.files_used / quota.files_max, percent=True)
    return f"{quota.files_used:,} of {quota.files_max:,} files ({share})"
