# SPDX-License-Identifier: Apache-2.0
"""launch/on_worker.sh in a copy of the folder, with a systemd that notes."""

import pathlib
import shutil
import subprocess

import pytest

from suti.runtime import preemption

ROOT = pathlib.Path(__file__).parent.parent.parent
FAKES = {
  # As root, without being it.
  "sudo": '#!/bin/bash\nwhile [[ "$1" == *=* ]]; do shift; done\nexec "$@"\n',
  "systemctl": '#!/bin/bash\necho "systemctl $*" >> "$NOTES"\n'
  '[[ "$1" != is-active ]] || { echo "$STATE"; exit 3; }\n',
  "add-apt-repository": '#!/bin/bash\necho "repository $*" >> "$NOTES"\n',
  "apt-get": '#!/bin/bash\necho "apt-get $*" >> "$NOTES"\n',
  "mountpoint": '#!/bin/bash\n[[ -e "$NOTES.mounted" ]]\n',
  "mount": '#!/bin/bash\necho "mount $*" >> "$NOTES"; touch "$NOTES.mounted"\n',
  # As on the images of TPU VMs.
  **{
    f"python3{minor}": "#!/bin/bash\nexit 1\n"
    for minor in ("", ".11", ".12", ".13")
  },
}


@pytest.fixture
def worker(tmp_path):
  """Runs the script in a folder of its own; (run, folder)."""
  folder = tmp_path / "su ti"  # also a path with a space must do
  shutil.copytree(ROOT / "launch", folder / "launch")
  (tmp_path / "bin").mkdir()
  for name, text in FAKES.items():
    (tmp_path / "bin" / name).write_text(text)
    (tmp_path / "bin" / name).chmod(0o755)

  def run(*args, state="active"):
    return subprocess.run(
      ["bash", str(folder / "launch" / "on_worker.sh"), *args],
      env={
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "NOTES": str(tmp_path / "notes"),
        "STATE": state,
        "SUTI_UNIT": str(tmp_path / "suti.service"),
        "SUTI_FSTAB": str(tmp_path / "fstab"),
        "SUTI_SHARED": str(tmp_path / "shared"),
      },
      capture_output=True,
      text=True,
      check=False,
    )

  return run, tmp_path


def test_a_program_becomes_a_unit_that_is_started_again(worker):
  run, folder = worker
  result = run(
    "start", "python", "-m", "experts.mine", "--workdir", 'a "b" 5% $HOME'
  )
  assert result.returncode == 0, result.stderr
  unit = (folder / "suti.service").read_text().splitlines()
  here = folder / "su ti"
  assert f"WorkingDirectory={here}" in unit
  # systemd takes % and $ and quotes for its own.
  assert (
    'ExecStart="/usr/bin/env" "python" "-m" "experts.mine" "--workdir" '
    '"a \\"b\\" 5%% $$HOME" ' in unit
  )
  assert f'Environment=PYTHONUNBUFFERED=1 "PATH={here}/.venv/bin:' in "\n".join(
    unit
  )
  # A mistake that only its user can mend ends it: exit code 2.
  assert {"Restart=on-failure", "RestartPreventExitStatus=2"} <= set(unit)
  # What SIGTERM ends did not fail; if nobody stopped it, it is started again.
  code = preemption.CODE
  for setting in ("SuccessExitStatus", "RestartForceExitStatus"):
    assert f"{setting}={code}" in unit
  assert f"StandardOutput=append:{here}/suti.log" in unit
  assert (folder / "notes").read_text().splitlines() == [
    "systemctl daemon-reload",
    "systemctl enable --quiet suti",
    "systemctl restart suti",
  ]


def test_systemd_reads_the_unit(worker):
  if not shutil.which("systemd-analyze"):
    pytest.skip("systemd is not installed")
  run, folder = worker
  run("start", "python", "--workdir", 'a "b" 5% $HOME')
  result = subprocess.run(
    ["systemd-analyze", "verify", str(folder / "suti.service")],
    capture_output=True,
    text=True,
    check=False,
  )
  assert "suti.service" not in result.stderr, result.stderr


def test_status_is_the_state_and_the_end_of_the_log(worker):
  run, folder = worker
  assert run("status", state="inactive").stdout == "inactive\n"
  lines = "".join(f"line {n}\n" for n in range(9))
  (folder / "su ti" / "suti.log").write_text(lines)
  result = run("status", state="failed")
  assert result.returncode == 0
  assert result.stdout == "failed\n" + "".join(
    f"line {n}\n" for n in range(4, 9)
  )


def test_a_machine_with_an_old_python_gets_a_newer_one(worker):
  run, folder = worker
  (folder / "su ti" / "setup.py").touch()
  # The packages come from nowhere here, so that the end of it is an error.
  result = run("install")
  notes = (folder / "notes").read_text()
  assert "repository --yes ppa:deadsnakes/ppa" in notes
  assert "install --yes --quiet python3.12 python3.12-venv" in notes
  assert result.returncode == 2
  assert "Error: no Python 3.11 or newer was found" in result.stderr


def test_workers_get_what_the_container_gets(worker):
  """libtpu, and what reads the tables that clusters are mined from."""
  run, folder = worker
  (folder / "su ti" / "setup.py").touch()
  python = folder / "bin" / "python3"
  python.write_text(
    '#!/bin/bash\necho "python $*" >> "$NOTES"\n'
    '[[ "$*" != *"-m venv"* ]] ||\n'
    '  { mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python"; }\n'
  )
  result = run("install")
  assert result.returncode == 0, result.stderr
  wanted = "--editable .[tpu,parquet,gcs]"
  assert wanted in (folder / "notes").read_text()
  assert (
    "--editable '.[tpu,parquet,gcs]'"
    in (ROOT / "launch/Dockerfile").read_text()
  )


def test_the_disk_with_the_workdir_is_mounted_once_and_after_a_reboot(worker):
  run, folder = worker
  (folder / "su ti" / "setup.py").touch()
  (folder / "fstab").touch()
  for _ in range(2):
    run("install", "10.0.0.2:/share")
  shared = folder / "shared"
  line = f"10.0.0.2:/share {shared} nfs defaults,_netdev 0 0\n"
  assert (folder / "fstab").read_text() == line
  assert shared.stat().st_mode & 0o7777 == 0o1777
  notes = (folder / "notes").read_text().splitlines()
  assert notes.count(f"mount {shared}") == 1
  # Another one is not taken for it in silence.
  result = run("install", "10.0.0.2:/other")
  assert result.returncode == 2
  assert result.stderr.startswith(f"Error: {shared} is another disk than 10.0.")
  assert (folder / "fstab").read_text() == line


@pytest.mark.parametrize(
  ("args", "line"),
  [
    (("start",), "Error: start without a command: give one.\n"),
    (("go",), "Error: 'go' is none of install, start, status and stop.\n"),
  ],
)
def test_a_mistake_is_one_line(worker, args, line):
  result = worker[0](*args)
  assert (result.returncode, result.stderr) == (2, line)
