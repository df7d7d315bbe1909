# SPDX-License-Identifier: Apache-2.0
"""launch/tpu_vm.sh: what it asks of gcloud and what it makes of answers."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
PROGRAM = ("--", "python", "-m", "experts.finetune", "--workdir", "my runs")

# Notes what it is asked, and warns each time, as the real one may; slices are
# in the state that a file of theirs holds, created ones take the next state
# each time they are looked at.
GCLOUD = """#!/bin/bash
echo "gcloud $*" >> "$STATES/notes"
echo "WARNING: this will be another command one day" >&2
case "$*" in
  *" describe "*)
    file="$STATES/$5"
    [[ -e "$file" ]] || { echo "ERROR: NOT_FOUND: $5" >&2; exit 1; }
    now="$(head -n 1 "$file")"
    [[ "$(wc -l < "$file")" -le 1 ]] || sed -i 1d "$file"
    [[ "$now" != DENIED ]] || { echo "ERROR: not yours" >&2; exit 1; }
    echo "$now" ;;
  *" create "*)
    if [[ -e "$STATES/full" ]]; then
      rm "$STATES/full"
      echo "ERROR: RESOURCE_EXHAUSTED" >&2
      exit 1
    fi
    cat "$STATES/next" > "$STATES/$5" ;;
  *" delete "*) rm "$STATES/$5" ;;
  *"systemctl show"*) cat "$STATES/$5.program" ;;
esac
"""
# Packing the shipped models takes 3 s.
FAKES = {
  "gcloud": GCLOUD,
  "git": '#!/bin/bash\nif [[ "$1" == status ]]; then\n'
  '  cat "$STATES/open" 2> /dev/null || true\n'
  'else\n  : > "${3#--output=}"\nfi\n',
  "sleep": "#!/bin/bash\n",
}


class Cloud:
  """A Google Cloud of which a test says in which state its slices are."""

  def __init__(self, folder: pathlib.Path) -> None:
    self.folder = folder
    (folder / "bin").mkdir()
    for name, text in FAKES.items():
      (folder / "bin" / name).write_text(text)
      (folder / "bin" / name).chmod(0o755)
    self.next("ACTIVE")

  def next(self, *states: str) -> None:
    """What a slice that is created goes through."""
    (self.folder / "next").write_text("".join(s + "\n" for s in states))

  def has(
    self, name: str, state: str, program: str = "", *, enabled: bool = True
  ) -> None:
    """A slice, and the unit on its first worker."""
    (self.folder / name).write_text(state + "\n")
    lines = ["LoadState=not-found", "ActiveState=inactive", "UnitFileState="]
    if program:
      file = "enabled" if enabled else "disabled"
      lines = ["LoadState=loaded", f"ActiveState={program}"]
      lines.append(f"UnitFileState={file}")
    (self.folder / f"{name}.program").write_text("\n".join(lines) + "\n")

  def tell(self, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
      ["bash", str(ROOT / "launch" / "tpu_vm.sh"), *args],
      env={
        "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
        "STATES": str(self.folder),
        "HOME": str(self.folder),
      },
      capture_output=True,
      text=True,
      check=False,
    )

  def asked(self) -> list[str]:
    """The commands so far, without those that only look."""
    notes = self.folder / "notes"
    lines = notes.read_text().splitlines() if notes.exists() else []
    lines = [x.removeprefix("gcloud compute tpus ") for x in lines]
    looks = (" describe ", "systemctl show")
    return [x for x in lines if not any(look in x for look in looks)]


@pytest.fixture
def cloud(tmp_path):
  return Cloud(tmp_path)


def plan(cloud, *args):
  result = cloud.tell(*args)
  assert result.returncode == 0, result.stderr
  assert not cloud.asked(), "a dry run did something"
  return result.stdout.splitlines()


def errors(result: subprocess.CompletedProcess) -> list[str]:
  """What it says itself, without gcloud's warnings."""
  lines = result.stderr.splitlines()
  return [line for line in lines if not line.startswith("WARNING: ")]


def install(name: str, where: str = "") -> list[str]:
  return [
    f"gcloud compute tpus tpu-vm scp suti.tar.gz {name}: --worker=all{where}",
    f"gcloud compute tpus tpu-vm ssh {name} --worker=all '--command=mkdir -p "
    f"suti && tar -xzf suti.tar.gz -C suti'{where}",
    f"gcloud compute tpus tpu-vm ssh {name} --worker=all '--command=bash "
    f"suti/launch/on_worker.sh install'{where}",
  ]


PACK = ["git archive --format=tar.gz --output=suti.tar.gz HEAD"]
START = (
  "gcloud compute tpus tpu-vm ssh {} --worker=all '--command=bash "
  "suti/launch/on_worker.sh start python -m experts.finetune --workdir "
  "'\\''my runs'\\'''"
)


def test_a_queued_resource_is_created_waited_for_and_installed(cloud):
  where = " --zone=us-central2-b --project=mine"
  args = ("--zone", "us-central2-b", "--project", "mine", "--spot")
  assert plan(
    cloud, "create", "suti", "--dry-run", "--tpu", "v4-128", *args
  ) == [
    *PACK,
    "gcloud compute tpus queued-resources create suti --node-id=suti "
    "--accelerator-type=v4-128 --runtime-version=tpu-ubuntu2204-base --spot"
    + where,
    "gcloud compute tpus queued-resources describe suti "
    "'--format=value(state.state)'" + where,
    *install("suti", where),
  ]


def test_a_tpu_vm_is_created_immediately_and_slices_have_numbers(cloud):
  args = ("--direct", "--preemptible", "--slices=2", "--dry-run")
  create = (
    "gcloud compute tpus tpu-vm create {} --accelerator-type=v5litepod-16 "
    "--version=v2-alpha-tpuv5-lite --preemptible"
  )
  assert plan(cloud, "create", "suti", "--tpu", "v5e-16", *args) == [
    *PACK,
    create.format("suti-0"),
    create.format("suti-1"),
    *install("suti-0"),
    *install("suti-1"),
  ]


@pytest.mark.parametrize(
  ("tpu", "words"),
  [
    ("v3-8", "--accelerator-type=v3-8 --runtime-version=tpu-ubuntu2204-base"),
    ("v5p-8", "--accelerator-type=v5p-8 --runtime-version=v2-alpha-tpuv5"),
    ("v6e-4", "--accelerator-type=v6e-4 --runtime-version=v2-alpha-tpuv6e"),
  ],
)
def test_the_software_follows_from_the_type(cloud, tpu, words):
  lines = plan(cloud, "create", "suti", "--tpu", tpu, "--reserved", "--dry-run")
  assert lines[1].endswith(f"{words} --reserved")
  args = ("--tpu", tpu, "--runtime", "mine", "--dry-run")
  assert "--runtime-version=mine" in plan(cloud, "create", "suti", *args)[1]


def test_workers_mount_the_disk_with_the_workdir(cloud):
  args = ("--tpu", "v4-8", "--nfs", "10.0.0.2:/share", "--dry-run")
  assert plan(cloud, "create", "suti", *args)[-1] == (
    "gcloud compute tpus tpu-vm ssh suti --worker=all '--command=bash "
    "suti/launch/on_worker.sh install 10.0.0.2:/share'"
  )


def test_a_program_is_started_on_all_workers_of_all_slices(cloud):
  lines = plan(cloud, "start", "suti", "--slices", "2", "--dry-run", *PROGRAM)
  assert lines == [START.format("suti-0"), START.format("suti-1")]


@pytest.mark.parametrize("every", [(), ("--every", "300")])
def test_resume_shows_what_it_would_do_in_each_case(cloud, every):
  args = ("--tpu", "v6e-8", "--spot", *every, "--dry-run", *PROGRAM)
  describe = (
    "gcloud compute tpus queued-resources describe suti "
    "'--format=value(state.state)'"
  )
  assert plan(cloud, "resume", "suti", *args) == [
    *PACK,
    describe,
    "# If it was preempted, has failed, or is gone (then none is deleted):",
    "gcloud compute tpus queued-resources delete suti --force --quiet",
    "gcloud compute tpus queued-resources create suti --node-id=suti "
    "--accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e --spot",
    # Who looks again later does not wait.
    *([] if every else [describe]),
    "# If it is there:",
    "gcloud compute tpus tpu-vm ssh suti --worker=0 '--command=systemctl show "
    "suti --property=LoadState,ActiveState,UnitFileState'",
    "# If it is new, or the program was stopped:",
    *install("suti"),
    START.format("suti"),
  ]


@pytest.mark.parametrize(
  ("args", "expected"),
  [
    (
      ("stop", "suti"),
      "tpu-vm ssh suti --worker=all '--command=bash "
      "suti/launch/on_worker.sh stop'",
    ),
    (("delete", "suti"), "queued-resources delete suti --force --quiet"),
    (("delete", "suti", "--direct"), "tpu-vm delete suti --quiet"),
    (
      ("status", "suti", "--direct"),
      "tpu-vm describe suti '--format=value(state)'",
    ),
    (
      ("status", "suti"),
      "queued-resources describe suti '--format=value(state.state)'",
    ),
  ],
)
def test_the_other_commands(cloud, args, expected):
  assert plan(cloud, *args, "--dry-run")[0] == f"gcloud compute tpus {expected}"


# --- What it makes of answers -------------------------------------------------


def test_it_waits_until_the_slice_is_there(cloud):
  (cloud.folder / "bin" / "git").unlink()  # once with the real one
  cloud.next("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  result = cloud.tell("create", "suti", "--tpu", "v4-8")
  assert result.returncode == 0, result.stderr
  states = [x for x in result.stdout.splitlines() if x.startswith("suti: ")]
  assert states[0] == "suti: ACCEPTED" and states[-1] == "suti: ACTIVE"
  words = ("create suti", "scp", "tar -xzf", "on_worker.sh install")
  for command, word in zip(cloud.asked(), words, strict=True):
    assert word in command


def test_what_is_not_committed_is_said_not_to_be_sent(cloud):
  (cloud.folder / "open").write_text(" M setup.py\n?? configs/mine.py\n")
  result = cloud.tell("create", "suti", "--tpu", "v4-8")
  assert result.returncode == 0, result.stderr
  assert errors(result) == [
    "Warning: what is not committed is not sent: 2 files, such as setup.py."
  ]


def test_a_slice_that_fails_while_it_is_waited_for_is_named(cloud):
  cloud.next("ACCEPTED", "FAILED")
  result = cloud.tell("create", "suti", "--tpu", "v4-8")
  assert result.returncode == 2
  assert errors(result)[0].startswith("Error: suti is FAILED: see gcloud comp")
  assert len(cloud.asked()) == 1


def test_resume_does_to_each_slice_what_its_state_asks_for(cloud):
  cloud.has("suti-0", "ACTIVE", "active")  # works
  cloud.has("suti-1", "SUSPENDED")  # was preempted
  cloud.has("suti-2", "WAITING_FOR_RESOURCES")  # comes
  cloud.has("suti-3", "ACTIVE", "inactive")  # has ended well
  cloud.has("suti-4", "ACTIVE")  # is new and empty
  # suti-5 is gone.
  cloud.has("suti-6", "ACTIVE", "failed", enabled=False)  # was stopped
  cloud.has("suti-7", "ACTIVE", "inactive", enabled=False)  # was stopped
  args = ("--tpu", "v4-8", "--spot", "--slices", "8")
  result = cloud.tell("resume", "suti", *args, *PROGRAM)
  assert result.returncode == 0, result.stderr
  assert errors(result)[-1] == "7 of 8 slices at work."
  asked = cloud.asked()

  for name in ("suti-0", "suti-2", "suti-3"):
    assert not [x for x in asked if f" {name}" in x], name
  for number in (1, 4, 5, 6, 7):
    commands = [x for x in asked if f" suti-{number}" in x]
    kinds = [" ".join(x.split()[:2]) for x in commands]
    create = ["queued-resources create"] if number in (1, 5) else []
    delete = ["queued-resources delete"] if number == 1 else []
    expected = [*delete, *create, "tpu-vm scp", *["tpu-vm ssh"] * 3]
    assert kinds == expected, number
    assert "on_worker.sh start python -m experts.finetune" in commands[-1]


def test_resume_every_so_often_ends_when_all_programs_have_ended(cloud):
  cloud.has("suti", "ACTIVE", "inactive")
  args = ("--tpu", "v4-8", "--every", "1")
  result = cloud.tell("resume", "suti", *args, *PROGRAM)
  assert result.returncode == 0
  assert errors(result) == ["0 of 1 slices at work."]


def test_a_program_that_names_a_mistake_is_not_started_again(cloud):
  cloud.has("suti", "ACTIVE", "failed")
  result = cloud.tell("resume", "suti", "--tpu", "v4-8", *PROGRAM)
  assert result.returncode == 2
  assert "the program on suti names a mistake" in result.stderr
  assert not cloud.asked()


def test_a_worker_that_does_not_answer_is_not_taken_for_a_new_one(cloud):
  cloud.has("suti", "ACTIVE")
  (cloud.folder / "suti.program").unlink()
  result = cloud.tell("resume", "suti", "--tpu", "v4-8", *PROGRAM)
  assert result.returncode == 2
  assert "the first worker of suti does not answer" in result.stderr
  assert not cloud.asked()


def test_no_slice_is_waited_for_while_others_may_come(cloud):
  cloud.next("WAITING_FOR_RESOURCES", "ACTIVE")
  cloud.has("suti-0", "SUSPENDED")
  cloud.has("suti-1", "ACTIVE")
  for slice_ in ("suti-0", "suti-1"):  # both will have ended when looked at
    unit = "LoadState=loaded\nActiveState=inactive\n"
    (cloud.folder / f"{slice_}.program").write_text(unit)
  args = ("--tpu", "v4-8", "--slices", "2", "--every", "1")
  result = cloud.tell("resume", "suti", *args, *PROGRAM)
  assert result.returncode == 0, result.stderr
  assert [x.split()[1] for x in cloud.asked()] == ["delete", "create"]
  # The first slice: created, then waiting, then there.
  assert errors(result) == [
    "suti-0: SUSPENDED",
    "1 of 2 slices at work.",
    "1 of 2 slices at work.",
    "0 of 2 slices at work.",
  ]


def test_an_unknown_state_is_not_taken_for_a_slice_that_is_gone(cloud):
  cloud.has("suti", "DENIED")
  result = cloud.tell("resume", "suti", "--tpu", "v4-8", *PROGRAM)
  assert result.returncode == 2
  assert errors(result) == [
    "Error: the state of suti is not known: ERROR: not yours",
    "0 of 1 slices at work, 1 with an error; see above.",
  ]
  assert not cloud.asked()


@pytest.mark.parametrize(
  ("state", "code"),
  [
    *[(x, 0) for x in ("SUSPENDING", "DELETING", "REPAIRING", "CREATING")],
    *[(x, 2) for x in ("STOPPED", "HIDDEN", "WARNING ACTIVE", "")],
  ],
)
def test_no_slice_is_deleted_that_may_not_be_lost(cloud, state, code):
  cloud.has("suti", state, "active")
  result = cloud.tell("resume", "suti", "--tpu", "v4-8", *PROGRAM)
  assert result.returncode == code, result.stderr
  assert not cloud.asked()


def test_resume_every_so_often_goes_on_after_any_error(cloud):
  """One slice is refused at first, one is denied, one has named a mistake."""
  (cloud.folder / "full").touch()
  for name in ("suti-0", "suti-1", "suti-2", "suti-3"):
    cloud.has(name, "ACTIVE", "inactive")
  (cloud.folder / "suti-0").write_text("SUSPENDED\n")
  (cloud.folder / "suti-1").write_text("DENIED\nACTIVE\n")
  cloud.has("suti-2", "ACTIVE", "failed")
  args = ("--tpu", "v4-8", "--slices", "4", "--every", "1")
  result = cloud.tell("resume", "suti", *args, *PROGRAM)
  lines = [line for line in errors(result) if "slices at work" in line]
  assert lines == [
    "0 of 4 slices at work, 3 with an error; see above.",  # refused, denied
    "1 of 4 slices at work, 1 with an error; see above.",  # created
    # Those that can go on have ended, the third waits for its user.
    "0 of 4 slices at work, 1 with an error; see above.",
  ]
  assert result.returncode == 2
  kinds = [x.split()[1] for x in cloud.asked()]
  assert kinds == ["delete", "create", "create"]


# --- Mistakes -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("args", "line"),
  [
    ((), "a command is missing (see --help)."),
    (("make", "suti"), "no command 'make': create, start, status, resume, "),
    (("create",), "create: a name is missing, such as: create suti --tpu"),
    (("create", "Suti_1"), "name 'Suti_1': lower-case letters, digits and"),
    (("create", "suti"), "create: --tpu is missing, such as --tpu v4-8."),
    (("create", "suti", "--tpu"), "--tpu: a value is missing."),
    (("create", "suti", "--tpu", "v9-8"), "--tpu=v9-8: expected is v2-N, "),
    (("create", "suti", "--tpu", "v4"), "--tpu=v4: expected is v2-N, v3-N"),
    (("create", "suti", "--tpus", "v4-8"), "unknown argument '--tpus' (see"),
    (
      ("create", "suti", "--tpu", "v4-8", "--slices", "two"),
      "--slices=two: a whole number above 0 is expected.",
    ),
    (
      ("create", "suti", "--tpu", "v4-8", "--spot", "--reserved"),
      "--spot and --reserved: give one of them.",
    ),
    (
      ("create", "suti", "--tpu", "v4-8", "--preemptible"),
      "--preemptible without --direct: queued resources know --spot only.",
    ),
    (
      ("create", "suti", "--tpu", "v4-8", "--nfs", "share"),
      "--nfs=share: expected is HOST:/PATH, of letters, digits and ",
    ),
    (
      ("create", "suti", "--tpu", "v4-8", "--nfs", "a:/$(reboot);b"),
      "--nfs=a:/$(reboot);b: expected is HOST:/PATH, of letters, digits and ",
    ),
    (("start", "suti"), "start: a program is missing, such as: -- python -m"),
    (("start", "suti", "suti", "run"), "unknown argument 'suti' (see --help; "),
  ],
)
def test_a_mistake_is_one_line(cloud, args, line):
  result = cloud.tell(*args)
  assert result.returncode == 2
  assert result.stderr.startswith(f"Error: {line}")
  assert result.stderr.count("\n") == 1
  assert not cloud.asked()


def test_without_gcloud_the_line_says_where_to_get_it(cloud):
  shutil.rmtree(cloud.folder / "bin")
  programs = cloud.folder / "bin"
  programs.mkdir()
  for name in ("bash", "cat", "dirname"):
    (programs / name).symlink_to(str(shutil.which(name)))
  result = subprocess.run(
    [shutil.which("bash"), str(ROOT / "launch/tpu_vm.sh"), "delete", "suti"],
    env={"PATH": str(programs)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 2
  assert result.stderr.startswith("Error: gcloud is not installed: see https:")


@pytest.mark.parametrize("args", [("--help",), ("create", "--help")])
def test_help_names_every_command_and_flag(cloud, args):
  result = cloud.tell(*args)
  assert result.returncode == 0
  for word in ("create", "start", "status", "resume", "stop", "delete"):
    assert f"\n  {word} " in result.stdout
  for flag in ("tpu", "zone", "slices", "spot", "direct", "every", "dry-run"):
    assert f"\n  --{flag}" in result.stdout
