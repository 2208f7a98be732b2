"""Doing things as another user, in a process of its own."""

import os
import sys
import traceback
from collections.abc import Callable, Collection

ALICE, BOB, STAFF = 4001, 4002, 4100


def act_as(
    uid: int, action: Callable[[], object], *, gid: int | None = None, groups: Collection[int] = ()
) -> int:
    """Run `action` as `uid` with no privileges; 0, or the errno of the OSError it failed with."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 255
        try:
            os.setgroups(list(groups))
            os.setgid(uid if gid is None else gid)
            os.setuid(uid)
            os.umask(0o022)
            action()
            code = 0
        except OSError as error:
            code = error.errno or 254
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code not in (254, 255), "the action failed in an unexpected way, see its output"
    return code
