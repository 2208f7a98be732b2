"""Where a volume's store is and how it is written, as the command line and the configuration say it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from fusegw.errors import Invalid
from fusegw.store.options import StoreOptions

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option("--store", "url", metavar="URL", help="file:///directory or s3://bucket/prefix."),
    click.option("--endpoint-url", help="Address of an S3 server that is not AWS."),
    click.option("--region", help="Region of the bucket."),
    click.option("--ca-bundle", type=_FILE, help="Certificate authorities to trust instead of the system's."),
    click.option("--profile", help="Section of the AWS credentials file."),
    click.option(
        "--sse", type=click.Choice(["AES256", "aws:kms"]), help="Server-side encryption to ask for."
    ),
    click.option("--kms-key-id", help="Key for --sse aws:kms."),
    click.option("--storage-class", help="Storage class of new objects."),
    click.option(
        "--unsafe-no-fencing", is_flag=True, help="Accept a store that cannot refuse a second create."
    ),
)


def store_options(function: _Function) -> _Function:
    """Add the options of a store to a command: `unsafe_no_fencing`, and those for `store_said`."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def store_said(
    name: str, configured: StoreOptions | None, given: Mapping[str, str | Path | None]
) -> StoreOptions:
    """What the configuration says about the store of `name`, with the options given put over it."""
    if configured is None and not given["url"]:
        raise Invalid(f"no store for volume {name!r}: give --store URL")
    if configured is not None and given["url"] not in (None, configured.url):
        raise Invalid(
            f"--store {given['url']} contradicts [volumes.{name}] of the configuration, which says "
            f"{configured.url}: later commands would use that one"
        )
    said = {key: str(value) for key, value in given.items() if value is not None}
    if given["ca_bundle"] is not None:
        said["ca_bundle"] = str(Path(said["ca_bundle"]).absolute())
    return msgspec.structs.replace(configured or StoreOptions(url=said["url"]), **said)
