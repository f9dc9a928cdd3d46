#!/usr/bin/env bash
# Makes a file system on a loop device: devices.sh up ext4|xfs FILE MIB MOUNTPOINT | down MOUNTPOINT
# As root; wants mkfs.ext4 (e2fsprogs) or mkfs.xfs (xfsprogs). The loop device bypasses the host's page cache
# (direct I/O), so its cache flushes become flushes of FILE. FILE is written in full beforehand: a sparse one
# would measure the host's allocation. `sparse` as a last word leaves it sparse (for `errors`).
set -euo pipefail
case ${1:-} in
  up)
    kind=$2 file=$3 mib=$4 mountpoint=$5
    rm -f "$file"
    truncate -s "${mib}M" "$file"
    # A tmpfs has no direct I/O; `errors` uses one.
    direct=on
    if [ "${6:-}" = sparse ]; then direct=off
    else dd if=/dev/zero of="$file" bs=4M count=$((mib / 4)) conv=notrunc,fsync status=none; fi
    device=$(losetup --find --show --direct-io=$direct "$file")
    if [ "$kind" = ext4 ]; then mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$device"
    else mkfs.xfs -q -f -K "$device"; fi
    mkdir -p "$mountpoint"
    mount "$device" "$mountpoint"
    echo "$device" ;;
  down)
    mountpoint=$2
    device=$(findmnt -no SOURCE "$mountpoint")
    umount "$mountpoint"
    losetup -d "$device" ;;
  *) sed -n 2p "$0"; exit 2 ;;
esac
