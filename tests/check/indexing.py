"""Checks an index whose file may be damaged, and prints the problems and what its rows are: DIRECTORY."""

import hashlib
import json
import sys
from pathlib import Path

from fusegw.check.damages import Damages
from fusegw.check.index import check_index
from fusegw.errors import FusegwError
from fusegw.meta.beside import IndexBeside
from fusegw.meta.schema import LOGGED_TABLES
from fusegw.meta.view import View


def rows(view: View) -> str:
    """A digest of all rows that describe the volume."""
    found = hashlib.blake2b()
    for table in LOGGED_TABLES:
        for key, stored in view.stored(table):
            found.update(key)
            found.update(stored)
    return found.hexdigest()


def main(place: str) -> None:
    damages = Damages()
    try:
        with IndexBeside(Path(place)) as index, index.view() as view:
            check_index(view, damages)
            problems = [damage.problem for damage in damages.named(view)]
            print(json.dumps({"problems": problems, "rows": None if problems else rows(view)}))
    except FusegwError as error:
        print(json.dumps({"problems": [str(error)], "rows": None}))


if __name__ == "__main__":
    main(*sys.argv[1:])
