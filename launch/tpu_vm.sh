#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cloud TPU VMs by gcloud: create, start, watch, resume and delete slices.
set -euo pipefail

usage() {
  cat << 'END'
usage: bash launch/tpu_vm.sh COMMAND NAME [FLAGS] [-- PROGRAM ARGUMENTS...]

commands:
  create   ask for the slices, wait until they are there, and install this
           commit on all of their workers
  start    run the program on all workers, as a systemd unit that outlives the
           ssh session and is started again when it fails
  status   what became of the slices, and of the program on their first workers
  resume   create again what was preempted, start the program where it is not at
           work; it goes on from what is in its workdir
  stop     stop the program; the slices stay
  delete   give everything back

flags:
  --tpu TYPE       v4-8, v5e-16, v5p-8, v6e-16, ...: as Cloud TPU counts, v4 and
                   v5p by cores, v5e and v6e by chips
  --zone ZONE      where; gcloud's own default otherwise
  --project ID     whose; gcloud's own default otherwise
  --slices N       NAME-0 to NAME-(N-1), which share nothing but the workdir
  --spot           cheaper, and taken away when somebody else wants it
  --preemptible    the older kind of it, for a day at most; only with --direct
  --reserved       from the project's reservation
  --direct         a TPU VM at once or not at all, instead of a queued resource
  --nfs HOST:/PATH a disk that all workers mount as /mnt/nfs/suti, for the workdir;
                   not for one in a bucket (gs://BUCKET/FOLDER)
  --runtime NAME   software of the VM; chosen by the type otherwise
  --every SECONDS  resume: go on so, looking this often, until all have ended
  --dry-run        print the commands, one a line, and run none
END
}

fail() {
  echo "Error: $*" >&2
  exit 2
}

# --- Arguments ----------------------------------------------------------------

for arg in "$@"; do
  [[ "$arg" != -- ]] || break
  case "$arg" in -h | --help | help)
    usage
    exit 0
    ;;
  esac
done
[[ $# -gt 0 ]] || fail "a command is missing (see --help)."
COMMAND="$1"
shift
case "$COMMAND" in
  create | start | status | resume | stop | delete) ;;
  *) fail "no command '$COMMAND': create, start, status, resume, stop and" \
    "delete are there (see --help)." ;;
esac
[[ $# -gt 0 && "$1" != -* ]] ||
  fail "$COMMAND: a name is missing, such as: $COMMAND suti --tpu v4-8."
NAME="$1"
shift
[[ "$NAME" =~ ^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$ ]] ||
  fail "name '$NAME': lower-case letters, digits and dashes are expected, a" \
    "letter first, 52 at most."

TYPE="" RUNTIME="" NFS="" SLICES=1 TIER="" EVERY="" DIRECT="" DRY=""
PLACE=() PROGRAM=()

# number FLAG VALUE
number() {
  [[ "$2" =~ ^[1-9][0-9]{0,4}$ ]] ||
    fail "$1=$2: a whole number above 0 is expected."
}

while [[ $# -gt 0 ]]; do
  flag="$1"
  shift
  case "$flag" in
    --)
      PROGRAM=("$@")
      break
      ;;
    --*=*)
      set -- "${flag%%=*}" "${flag#*=}" "$@"
      ;;
    --direct) DIRECT=yes ;;
    --dry-run) DRY=yes ;;
    --spot | --preemptible | --reserved)
      [[ -z "$TIER" ]] || fail "$TIER and $flag: give one of them."
      TIER="$flag"
      ;;
    --tpu | --zone | --project | --slices | --runtime | --every | --nfs)
      [[ $# -gt 0 && -n "$1" && "$1" != --* ]] || fail "$flag: a value is missing."
      case "$flag" in
        --tpu) TYPE="$1" ;;
        --slices) number "$flag" "$1" && SLICES="$1" ;;
        --every) number "$flag" "$1" && EVERY="$1" ;;
        --runtime) RUNTIME="$1" ;;
        --nfs)
          # It becomes a word of the workers' shells and of their fstab.
          [[ "$1" =~ ^[A-Za-z0-9][A-Za-z0-9.-]*:/[A-Za-z0-9_./@%+=,~-]*$ ]] ||
            fail "--nfs=$1: expected is HOST:/PATH, of letters, digits and" \
              "_./@%+=,~- alone."
          NFS="$1"
          ;;
        *) PLACE+=("$flag=$1") ;;
      esac
      shift
      ;;
    *) fail "unknown argument '$flag' (see --help; a program stands after --)." ;;
  esac
done

[[ "$TIER" != --preemptible || -n "$DIRECT" ]] ||
  fail "--preemptible without --direct: queued resources know --spot only."
case "$COMMAND" in start | resume)
  [[ ${#PROGRAM[@]} -gt 0 ]] ||
    fail "$COMMAND: a program is missing, such as: -- python -m" \
      "experts.finetune --config configs/quickstart.py --workdir DIR."
  ;;
esac
case "$COMMAND" in create | resume)
  # v5e is v5litepod to Cloud TPU.
  TYPE="${TYPE/#v5e-/v5litepod-}"
  case "$TYPE" in
    "") fail "$COMMAND: --tpu is missing, such as --tpu v4-8." ;;
    v[234]-[1-9]*) default=tpu-ubuntu2204-base ;;
    v5litepod-[1-9]*) default=v2-alpha-tpuv5-lite ;;
    v5p-[1-9]*) default=v2-alpha-tpuv5 ;;
    v6e-[1-9]*) default=v2-alpha-tpuv6e ;;
    *) fail "--tpu=$TYPE: expected is v2-N, v3-N, v4-N, v5e-N, v5p-N or v6e-N." ;;
  esac
  RUNTIME="${RUNTIME:-$default}"
  ;;
esac

if [[ "$SLICES" == 1 ]]; then
  NAMES=("$NAME")
else
  mapfile -t NAMES < <(for ((i = 0; i < SLICES; i++)); do echo "$NAME-$i"; done)
fi

# --- Commands to gcloud and git -------------------------------------------------

# A word as a shell reads it, quoted if it must be.
word() {
  if [[ "$1" =~ ^[A-Za-z0-9_./:@%+=,~-]+$ ]]; then
    printf '%s' "$1"
  else
    printf "'%s'" "${1//\'/\'\\\'\'}"
  fi
}

words() {
  local text="" one
  for one in "$@"; do text+="${text:+ }$(word "$one")"; done
  printf '%s' "$text"
}

# Runs a command, or prints it.
run() {
  if [[ -n "$DRY" ]]; then
    words "$@" && echo
  else
    "$@" || fail "$(words "${@:1:5}") ... failed; see above."
  fi
}

tpu() { run gcloud compute tpus "$@" "${PLACE[@]}"; }

# on WORKER SLICE COMMAND: by ssh; WORKER is a number or all.
on() { tpu tpu-vm ssh "$2" --worker="$1" --command="$3"; }

describe() {
  if [[ -n "$DIRECT" ]]; then
    tpu tpu-vm describe "$1" "--format=value(state)"
  else
    tpu queued-resources describe "$1" "--format=value(state.state)"
  fi
}

# The state of a slice; GONE if there is none of that name. What gcloud says
# beside it, such as a warning, is no part of it.
state() {
  local answer line words
  words="$(mktemp)"
  if answer="$(describe "$1" 2> "$words")"; then
    rm "$words"
    echo "$answer"
    return
  fi
  line="$(grep --max-count=1 ^ERROR "$words" || head -n 1 "$words")"
  rm "$words"
  case "$line" in
    ERROR*NOT_FOUND* | ERROR*"not found"*) echo GONE ;;
    *) fail "the state of $1 is not known: $line" ;;
  esac
}

# Whether a slice in this state will be in another one by itself.
moves() {
  case "$1" in
    ACCEPTED | WAITING_FOR_RESOURCES | PROVISIONING | CREATING | STARTING | \
      RESTARTING | REPAIRING | REIMAGING | STOPPING | SUSPENDING | DELETING) ;;
    *) return 1 ;;
  esac
}

create() {
  local tier=("$TIER")
  [[ -n "$TIER" ]] || tier=()
  if [[ -n "$DIRECT" ]]; then
    tpu tpu-vm create "$1" --accelerator-type="$TYPE" --version="$RUNTIME" \
      "${tier[@]}"
  else
    tpu queued-resources create "$1" --node-id="$1" \
      --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${tier[@]}"
  fi
}

wait_for() {
  local now last=""
  if [[ -n "$DIRECT" ]]; then
    return # It is there, or creating it failed.
  elif [[ -n "$DRY" ]]; then
    describe "$1"
    return
  fi
  while true; do
    now="$(state "$1")" || exit 2
    [[ "$now" == "$last" ]] || echo "$1: $now"
    last="$now"
    [[ "$now" != ACTIVE ]] || return 0
    moves "$now" ||
      fail "$1 is ${now:-in no state}: see gcloud compute tpus" \
        "queued-resources describe $1, then delete or resume it."
    sleep 20
  done
}

# This commit, in a file. Not what is not committed: what runs has a name.
pack() {
  local open
  ARCHIVE=suti.tar.gz
  if [[ -z "$DRY" ]]; then
    open="$(git status --porcelain 2> /dev/null || true)"
    [[ -z "$open" ]] || echo "Warning: what is not committed is not sent:" \
      "$(wc -l <<< "$open") files, such as $(head -n 1 <<< "${open:3}")." >&2
    ARCHIVE="$(mktemp -d)/suti.tar.gz"
    trap 'rm -rf "$(dirname "$ARCHIVE")"' EXIT
  fi
  run git archive --format=tar.gz --output="$ARCHIVE" HEAD
}

# What was packed, on all workers.
install() {
  tpu tpu-vm scp "$ARCHIVE" "$1:" --worker=all
  on all "$1" "mkdir -p suti && tar -xzf suti.tar.gz -C suti"
  on all "$1" "bash suti/launch/on_worker.sh install${NFS:+ $(word "$NFS")}"
}

furnish() {
  wait_for "$1"
  install "$1"
}

start() {
  on all "$1" "bash suti/launch/on_worker.sh start $(words "${PROGRAM[@]}")"
}

stop() { on all "$1" "bash suti/launch/on_worker.sh stop"; }

delete() {
  if [[ -n "$DIRECT" ]]; then
    tpu tpu-vm delete "$1" --quiet
  else
    # Its TPU VM too.
    tpu queued-resources delete "$1" --force --quiet
  fi
}

status() {
  local now
  if [[ -n "$DRY" ]]; then
    describe "$1"
    when "it is there"
  else
    now="$(state "$1")" || exit 2
    echo "$1: $now"
    [[ "$now" == ACTIVE || "$now" == READY ]] || return 0
  fi
  on 0 "$1" "bash suti/launch/on_worker.sh status"
}

# What the program does on a slice's first worker, as systemd says it.
program() {
  on 0 "$1" "systemctl show suti --property=LoadState,ActiveState,UnitFileState"
}

# Says in a dry run when the commands that follow are run.
when() { [[ -z "$DRY" ]] || echo "# If $*:"; }

# How `resume` ends where the slice is neither at work nor on its way to it.
ENDED=10    # the program has ended well
MISTAKEN=11 # it has named a mistake that only its user can mend

# One slice, as it is now, to one on which the program runs.
resume() {
  local now
  if [[ -n "$DRY" ]]; then
    describe "$1"
    when "it was preempted, has failed, or is gone (then none is deleted)"
    replace "$1"
    when "it is there"
    program "$1"
    when "it is new, or the program was stopped"
    install "$1"
    start "$1"
    return
  fi
  now="$(state "$1")" || exit 2
  case "$now" in
    ACTIVE | READY)
      case "$(program "$1" 2> /dev/null || true)" in
        *LoadState=not-found*) ;; # It is new.
        *ActiveState=active* | *ActiveState=activating* | \
          *ActiveState=deactivating* | *ActiveState=reloading*)
          return # It runs, or is started again.
          ;;
        *UnitFileState=disabled*) ;; # It was stopped.
        *ActiveState=inactive*) exit "$ENDED" ;;
        *ActiveState=failed*)
          echo "Error: the program on $1 names a mistake, see: bash" \
            "launch/tpu_vm.sh status $NAME; mend it, then start it anew." >&2
          exit "$MISTAKEN"
          ;;
        *) fail "the first worker of $1 does not answer: try again." ;;
      esac
      ;;
    # These are lost. Nothing in another state is ever deleted.
    SUSPENDED | FAILED | PREEMPTED | TERMINATED | GONE)
      echo "$1: $now" >&2
      replace "$1" "$now"
      # Another slice may be there sooner: look again next time.
      [[ -z "$EVERY" || -n "$DIRECT" ]] || return 0
      ;;
    *)
      moves "$now" && return
      fail "$1 is ${now:-in no state}: see gcloud compute tpus, then start or" \
        "delete it."
      ;;
  esac
  install "$1"
  start "$1"
}

# replace SLICE [STATE]: a new one for one that is lost.
replace() {
  [[ "${2:-}" == GONE ]] || delete "$1"
  create "$1"
  [[ -n "$EVERY" ]] || wait_for "$1"
}

# Runs a function for each slice; where it fails for one, the others are not
# kept waiting. Counts in DONE, STUCK and FAILED how it ended.
each() {
  local slice code
  DONE=0 STUCK=0 FAILED=0
  for slice in "${NAMES[@]}"; do
    set +e
    (
      set -e # which a condition around these lines would switch off
      "$1" "$slice"
    )
    code=$?
    set -e
    case "$code" in
      0) ;;
      "$ENDED") DONE=$((DONE + 1)) ;;
      "$MISTAKEN") STUCK=$((STUCK + 1)) ;;
      *) FAILED=$((FAILED + 1)) ;;
    esac
  done
}

# --- The command ----------------------------------------------------------------

[[ -n "$DRY" ]] || command -v gcloud > /dev/null ||
  fail "gcloud is not installed: see https://cloud.google.com/sdk, or give" \
    "--dry-run to see the commands."
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# gcloud makes an error of Ctrl-C, of which there are others to go on after.
trap 'exit 130' INT

case "$COMMAND" in
  create)
    pack
    # All are asked for before the first is waited for.
    for slice in "${NAMES[@]}"; do create "$slice"; done
    each furnish
    [[ "$FAILED" == 0 ]] || exit 2
    ;;
  resume)
    pack
    while true; do
      each resume
      [[ -z "$DRY" ]] || break
      left=$((${#NAMES[@]} - DONE))
      wrong=$((STUCK + FAILED))
      echo "$((left - wrong)) of ${#NAMES[@]} slices at work$(
        ((wrong == 0)) || echo ", $wrong with an error; see above"
      )." >&2
      # What is stuck, waits for its user.
      [[ -n "$EVERY" && "$left" -gt "$STUCK" ]] || break
      sleep "$EVERY"
    done
    [[ "$((STUCK + FAILED))" == 0 ]] || exit 2
    ;;
  *)
    each "$COMMAND"
    [[ "$FAILED" == 0 ]] || exit 2
    ;;
esac
