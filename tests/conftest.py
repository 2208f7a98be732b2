"""What holds for all tests: those that need the machine's help say so instead of failing in the middle."""

import os
import shutil

import pytest

pytest_plugins = ["tests.plugins.s3servers"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    can_mount = os.geteuid() == 0 and os.path.exists("/dev/fuse")
    skip_rgw = shutil.which("radosgw") is None and not os.environ.get(
        "CI"
    )  # CI must not lose these tests silently
    skip_ganesha = os.geteuid() != 0 or (shutil.which("ganesha.nfsd") is None and not os.environ.get("CI"))
    skip_samba = not all(map(shutil.which, ("smbd", "smbclient", "testparm"))) and not os.environ.get("CI")
    for item in items:
        if item.get_closest_marker("mount") and not can_mount:
            item.add_marker(pytest.mark.skip(reason="needs root and /dev/fuse"))
        if item.get_closest_marker("samba") and skip_samba:
            item.add_marker(pytest.mark.skip(reason="needs samba: scripts/test installs it"))
        if item.get_closest_marker("rgw") and skip_rgw:
            item.add_marker(pytest.mark.skip(reason="needs radosgw: scripts/test installs it"))
        if item.get_closest_marker("ganesha") and skip_ganesha:
            item.add_marker(pytest.mark.skip(reason="needs root and nfs-ganesha: scripts/test installs it"))
