# Sourced by the scripts beside it: brings a bare Debian to where fusegw runs, and is quick when nothing is missing.
#
#   setup_packages PACKAGE...   Debian packages that are not there yet (root; services are not started)
#   setup_shares PACKAGE...     what serves shares, and PACKAGE... besides; nothing of it listens by itself
#   open_ports                  what listens beyond the loopback
#   setup_python EXTRA...       the virtual environment .venv with the project in it, extras `test`, `lint`
#   setup_fuse                  /dev/fuse can be opened
#   setup_mount_helper          mount(8) finds us for -t fusegw and -t fuse.fusegw
#
# Needs bash, `set -euo pipefail` and ROOT, the checkout. Sets VENV. Env: FUSEGW_PYTHON (python3), FUSEGW_VENV (ROOT/.venv).

VENV=${FUSEGW_VENV:-$ROOT/.venv}
PYTHON=${FUSEGW_PYTHON:-python3}
POLICY=/usr/sbin/policy-rc.d

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }

# Which of PACKAGE... are not installed, one per line.
missing_packages() {
  local installed
  # A name dpkg never heard of makes dpkg-query fail; it is missing all the same.
  installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p') || true
  comm -13 <(sort -u <<<"$installed") <(printf '%s\n' "$@" | sort -u)
}

# apt-get install under a policy that starts no service: a storage host must not find new daemons listening.
install_packages() (
  export DEBIAN_FRONTEND=noninteractive
  if [ ! -e "$POLICY" ]; then
    trap 'rm -f "$POLICY"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$POLICY"
    chmod 755 "$POLICY"
  fi
  attempt() { apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"; }
  known() { [ "$(LC_ALL=C apt-cache policy "$@" 2>/dev/null | grep -c '^  Candidate: [^(]')" -eq $# ]; }
  if known "$@" && attempt "$@"; then return; fi
  apt-get update -q
  attempt "$@"
)

setup_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "needs these packages, and finds no apt-get to install them: ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "needs packages; as root: apt-get install --no-install-recommends ${missing[*]}"
  say "installing ${missing[*]}"
  install_packages "${missing[@]}" >&2
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -eq 0 ] || die "apt-get did not install ${missing[*]}"
}

# The daemons behind shares run as children of the gateway; Debian's own units for them are never to start.
SHARE_PACKAGES=(samba samba-vfs-modules smbclient libnss-wrapper nfs-ganesha nfs-ganesha-vfs)
declare -A SHARE_UNITS=(
  [samba]='smbd.service nmbd.service samba-ad-dc.service'
  [winbind]='winbind.service'
  [nfs-ganesha]='nfs-ganesha.service nfs-ganesha-lock.service'
  [rpcbind]='rpcbind.service rpcbind.socket'
  [nfs-common]='rpc-statd.service'
)

setup_shares() {
  local fresh package units=()
  mapfile -t fresh < <(missing_packages "${SHARE_PACKAGES[@]}" "$@")
  [ "${#fresh[@]}" -gt 0 ] || return 0
  mapfile -t fresh < <(missing_packages "${!SHARE_UNITS[@]}")
  setup_packages "${SHARE_PACKAGES[@]}" "$@"
  # Only what came just now, as a dependency too: somebody may want what was there before.
  for package in $(comm -23 <(printf '%s\n' "${fresh[@]}") <(missing_packages "${!SHARE_UNITS[@]}")); do
    read -ra units <<<"${units[*]} ${SHARE_UNITS[$package]}"
  done
  if [ "${#units[@]}" -gt 0 ] && command -v systemctl >/dev/null; then
    systemctl mask --now "${units[@]}" >/dev/null 2>&1 || say "could not mask ${units[*]}; see systemctl(1)"
  fi
}

# Sockets of TCP that can be reached from other hosts, one per line: hexadecimal ADDRESS:PORT, as the kernel lists them.
open_ports() {
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '
    $4 == "0A" && $2 !~ /^(0000000000000000FFFF0000)?......7F:/ && $2 !~ /^00000000000000000000000001000000:/ {
      print $2
    }' | sort -u
}

# What the environment was made from; another answer means it has to be made again.
environment_stamp() {
  { cat "$ROOT/pyproject.toml" "$ROOT/constraints.txt" "$ROOT"/exports/*.[ch]; "$PYTHON" -VV; command -v "$PYTHON"; echo "$ROOT"; } |
    sha256sum | cut -c1-64
}

# Is there an environment made from STAMP that has every EXTRA?
environment_is_ready() { # STAMP EXTRA...
  local have='' extra
  [ ! -f "$VENV/.fusegw-setup" ] || have=$(<"$VENV/.fusegw-setup")
  [ "${have%% *}" = "$1" ] && [ -x "$VENV/bin/python" ] || return 1
  shift
  for extra; do [[ " $have " == *" $extra "* ]] || return 1; done
}

make_environment() { # STAMP EXTRA...
  local stamp=$1 extras
  shift
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$PYTHON is older than 3.11; name a newer one in FUSEGW_PYTHON"
  # Debian cuts venv and the headers out of its Python; others carry both.
  "$PYTHON" -c 'import ensurepip, os, sysconfig as s; os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null ||
    setup_packages python3-venv python3-dev
  command -v cc >/dev/null || setup_packages gcc libc6-dev

  say "installing Python packages into $VENV"
  rm -f "$VENV/.fusegw-setup"
  "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV"
  # PIP_CONSTRAINT pins what the isolated builds (pyfuse3, the project itself) use, too.
  extras=$(IFS=,; echo "$*")
  (cd "$ROOT" && PIP_CONSTRAINT=$ROOT/constraints.txt "$VENV/bin/python" -m pip install --quiet --no-input \
    --disable-pip-version-check -e ".${extras:+[$extras]}") >&2
  echo "$stamp $*" >"$VENV/.fusegw-setup"
}

setup_python() {
  local stamp
  command -v "$PYTHON" >/dev/null || setup_packages python3 python3-venv python3-dev
  stamp=$(environment_stamp)
  ! environment_is_ready "$stamp" "$@" || return 0
  mkdir -p "${VENV%/*}"
  exec 8>"$VENV.lock"
  flock 8 # two scripts at once: one installs, the other finds it done
  environment_is_ready "$stamp" "$@" || make_environment "$stamp" "$@"
  exec 8>&-
}

setup_fuse() {
  if [ ! -c /dev/fuse ] && [ "$(id -u)" = 0 ]; then modprobe fuse 2>/dev/null || true; fi
  [ -c /dev/fuse ] || die "no /dev/fuse: load the module (modprobe fuse); in a container: --device /dev/fuse --cap-add SYS_ADMIN"
}

# A helper that works already (a package's, another checkout's) stays.
setup_mount_helper() {
  local link helper=$VENV/bin/fusegw-mount-helper
  [ "$(id -u)" = 0 ] && [ -x "$helper" ] || return 0
  for link in /sbin/mount.fusegw /sbin/mount.fuse.fusegw; do
    if [ "$(readlink "$link" 2>/dev/null)" = "$helper" ]; then continue; fi
    if [ -e "$link" ]; then say "$link stays as it is: $(readlink -f "$link")"; else ln -sfn "$helper" "$link"; fi
  done
}
