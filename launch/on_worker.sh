#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What launch/tpu_vm.sh runs on each worker of a TPU: install, start, status, stop.
#
#   bash launch/on_worker.sh install [HOST:/PATH]
#   bash launch/on_worker.sh start COMMAND...
#
# The command becomes a systemd unit: it outlives the ssh session, and is started
# again when it fails and after a reboot, until it ends well, is stopped here, or
# names a mistake that only its user can mend (exit code 2). At SIGTERM it ends
# with 143: no failure if it was stopped, and else a reason to start it again.
# Its output is in suti.log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

UNIT="${SUTI_UNIT:-/etc/systemd/system/suti.service}"
FSTAB="${SUTI_FSTAB:-/etc/fstab}"
SHARED="${SUTI_SHARED:-/mnt/nfs/suti}"

# Images of TPU VMs have Python 3.10, and jax wants a newer one.
install_python() {
  sudo add-apt-repository --yes ppa:deadsnakes/ppa
  # Another apt may be at work on a machine that has just come up.
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
    install --yes --quiet python3.12 python3.12-venv
}

# The disk with the workdir, now and after a reboot; all users may write to it.
mount_shared() {
  local line="$1 $SHARED nfs defaults,_netdev 0 0"
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
    install --yes --quiet nfs-common
  sudo mkdir -p "$SHARED"
  if grep -s -F " $SHARED nfs " "$FSTAB" | grep -q -v -x -F "$line"; then
    echo "Error: $SHARED is another disk than $1 here, see $FSTAB: delete the" \
      "slices and create them, or unmount it and remove its line." >&2
    exit 2
  fi
  grep -qxF "$line" "$FSTAB" || echo "$line" | sudo tee -a "$FSTAB" > /dev/null
  mountpoint --quiet "$SHARED" || sudo mount "$SHARED"
  sudo chmod 1777 "$SHARED"
}

# A word as systemd reads it.
quoted() {
  local word="${1//\\/\\\\}"
  word="${word//\"/\\\"}"
  word="${word//%/%%}"
  printf '"%s" ' "${word//\$/\$\$}"
}

unit() {
  local word
  cat << END
[Unit]
Description=suti
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
User=$(id -un)
WorkingDirectory=$PWD
Environment=PYTHONUNBUFFERED=1 "PATH=$PWD/.venv/bin:$PATH"
ExecStart=$(for word in /usr/bin/env "$@"; do quoted "$word"; done)
Restart=on-failure
RestartSec=15
RestartPreventExitStatus=2
SuccessExitStatus=143
RestartForceExitStatus=143
TimeoutStopSec=60
StandardOutput=append:$PWD/suti.log
StandardError=append:$PWD/suti.log

[Install]
WantedBy=multi-user.target
END
}

command="${1:-}"
[[ $# -eq 0 ]] || shift
case "$command" in
  install)
    [[ $# -eq 0 ]] || mount_shared "$1"
    # shellcheck source=launch/environment.sh
    source launch/environment.sh
    (_find_python) > /dev/null 2>&1 || install_python
    prepare tpu,parquet,gcs
    ;;
  start)
    [[ $# -gt 0 ]] || {
      echo "Error: start without a command: give one." >&2
      exit 2
    }
    unit "$@" | sudo tee "$UNIT" > /dev/null
    sudo systemctl daemon-reload
    sudo systemctl enable --quiet suti
    sudo systemctl restart suti
    ;;
  status)
    # active, activating (between two tries), inactive (ended well), failed
    systemctl is-active suti || true
    tail -n 5 suti.log 2> /dev/null || true
    ;;
  stop)
    sudo systemctl disable --quiet --now suti
    ;;
  *)
    echo "Error: '$command' is none of install, start, status and stop." >&2
    exit 2
    ;;
esac
