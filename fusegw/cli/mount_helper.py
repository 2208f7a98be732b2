"""mount(8)'s way to `fusegw mount`: what lies in /sbin as `mount.fusegw` and `mount.fuse.fusegw`.

An fstab line (the first column is the volume's name):

    tank  /srv/tank  fuse.fusegw  _netdev,nofail,passphrase_file=/etc/fusegw/tank.pass  0  0
"""

from fusegw.cli.main import main as run_command


def main() -> int:
    """Entry point of the helper; exit codes are those of `fusegw mount`."""
    return run_command(from_mount=True)
