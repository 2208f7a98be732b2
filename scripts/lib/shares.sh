# Sourced by scripts/run: the demonstration of shares.
#
#   demonstrate_shares   a share over SMB and one over NFS, a backup put through each, read back and compared
#   shares_next          what to try next
#
# Needs what scripts/run sets: SOURCE, DEMO, MOUNTPOINT, VOLUME, SMB_PORT, NFS_PORT, MOUNT_PORT, OPEN_BEFORE, and fusegw on PATH.

demonstrate_shares() {
  offer_smb
  mkdir -p "$MOUNTPOINT/over-nfs"
  offer demo-nfs --path /over-nfs --protocol nfs --squash none
  await_server smb
  await_server nfs
  back_up_over_smb
  back_up_over_nfs
  fusegw sync "$VOLUME" --wait
  local open
  open=$(comm -13 <(printf '%s\n' "$OPEN_BEFORE") <(open_ports))
  [ -z "$open" ] || die "listens beyond this host since this script began (hexadecimal address and port): ${open//$'\n'/ }"
}

offer_smb() {
  mkdir -p "$MOUNTPOINT/over-smb"
  if [ ! -s "$DEMO/smb-password" ]; then
    (umask 077 && head -c 12 /dev/urandom | base64 >"$DEMO/smb-password")
  fi
  if [ -z "$(demo_number)" ]; then
    say "adding user demo"
    fusegw export user add demo --volume "$VOLUME" --password-file "$DEMO/smb-password"
  fi
  (umask 077 && printf 'username = demo\npassword = %s\n' "$(<"$DEMO/smb-password")" >"$DEMO/smb-login")
  chown "$(demo_number)" "$MOUNTPOINT/over-smb"
  offer demo --path /over-smb --user demo
}

offer() { # NAME OPTION...: a share, if it is not there yet
  if fusegw export show "$1" >/dev/null 2>&1; then return; fi
  say "adding share $1"
  fusegw export add "$1" --volume "$VOLUME" --comment "made by scripts/run" "${@:2}"
}

demo_number() { # of the user demo; nothing when there is none
  fusegw export user list --json | python -c '
import json, sys
print(*(user["uid"] for user in json.load(sys.stdin)["users"] if user["name"] == "demo"))'
}

await_server() { # smb|nfs
  local tries
  for ((tries = 0; tries < 150; tries++)); do
    if fusegw status "$VOLUME" --json | python -c '
import json, sys
servers = json.load(sys.stdin)["servers"]
sys.exit(not any(s["protocol"] == sys.argv[1] and s["health"]["state"] == "running" for s in servers))' "$1"; then
      return
    fi
    sleep 0.2
  done
  die "the server of $1 does not run; fusegw status $VOLUME --json and $DEMO/state/log/$VOLUME.log say why"
}

smb() { # COMMANDS
  smbclient //127.0.0.1/demo --port="$SMB_PORT" --authentication-file="$DEMO/smb-login" -c "$1"
}

back_up_over_smb() {
  local name=${SOURCE##*/}.tar
  say "putting $SOURCE through the share by smbclient as $name, and comparing what comes back"
  tar -C "$SOURCE" -cf - . | smb "put - \"$name\"" >/dev/null
  smb "get \"$name\" -" 2>/dev/null | tar -C "$SOURCE" --compare -f -
  say "over SMB: $(stat -c %s "$MOUNTPOINT/over-smb/$name") bytes, the same when read back"
}

nfs_url() { # NAME
  local ports="nfsport=$NFS_PORT&mountport=$MOUNT_PORT"
  printf 'nfs://127.0.0.1/demo-nfs%s?version=3&%s' "${1:+/$1}" "$ports"
}

back_up_over_nfs() {
  local name=${SOURCE##*/}.tar
  say "putting it through the share by nfs-cp, and comparing what comes back"
  tar -C "$SOURCE" -cf "$DEMO/$name" .
  rm -f "$MOUNTPOINT/over-nfs/$name" # nfs-cp replaces nothing
  nfs-cp "$DEMO/$name" "$(nfs_url "$name")" >/dev/null
  nfs-cat "$(nfs_url "$name")" | cmp - "$DEMO/$name"
  rm "$DEMO/$name"
  say "over NFS: $(stat -c %s "$MOUNTPOINT/over-nfs/$name") bytes, the same when read back"
}

shares_next() {
  cat <<NEXT
The shares demo (SMB, port $SMB_PORT) and demo-nfs (NFS, port $NFS_PORT) are served on this host only; listen in [smb] and [nfs] of
$DEMO/config.toml changes that.

  smbclient //127.0.0.1/demo -p $SMB_PORT -A $DEMO/smb-login -c ls
  nfs-ls '$(nfs_url)'
  fusegw export list; fusegw status $VOLUME
  fusegw export show demo --client windows   # what to type there; or linux, rsync, robocopy, veeam, bacula
NEXT
}
