"""Makes files on a mount, each synced, until told to stop or refused: `python -m … ROOT DIRECTORY SEED`.

A process of its own: whoever starts another one while it has a file open on a mount that does not answer
waits for the mount. It prints, per file, `begun NUMBER SIZE` and `synced NUMBER`, and at the end `refused
ERRNO` when that is what ended it; a line on standard input tells it to stop.
"""

import os
import random
import select
import sys
from pathlib import Path

from tests.crash.load import content

SIZES = (0, 10, 3_000, 40_000, 400_000)
PAUSE_S = 0.01


def content_of(seed: int, number: int, size: int) -> bytes:
    return content(seed * 1_000_003 + number, size)


def main(root: Path, directory: str, seed: int) -> None:
    chance = random.Random(seed)
    try:
        (root / directory).mkdir()
        number = 0
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            number += 1
            size = chance.choice(SIZES)
            print("begun", number, size, flush=True)
            fd = os.open(root / directory / str(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                os.write(fd, content_of(seed, number, size))
                os.fsync(fd)
            finally:
                os.close(fd)
            print("synced", number, flush=True)
    except OSError as error:
        print("refused", error.errno, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
