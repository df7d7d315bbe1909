# SPDX-License-Identifier: Apache-2.0
"""launch/*.sh parse; environment.sh on machines that are not this one."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / ".ci" / "run"])

# A Python that can do what a test needs of one, and notes what it is asked.
FAKE_PYTHON = """#!/bin/bash
echo "$(basename "$0") $*" >> "$NOTES"
case "$*" in
  *version_info*) exit {old} ;;
  *ensurepip*) exit {without_venv} ;;
  "-m venv"*)
    mkdir -p "${{@: -1}}/bin"
    cp "$0" "${{@: -1}}/bin/python" ;;
  *"pip --version"*) exit 0 ;;
  *"pip install"*) [[ ! -e "$FAILS" ]] ;;
  --version) echo "Python 3.99" ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
  """Starts `prepare` on a machine that has nothing but some Pythons."""
  programs = tmp_path / "bin"
  programs.mkdir()
  for name in ("bash", "cat", "cksum", "basename", "mkdir", "cp"):
    (programs / name).symlink_to(str(shutil.which(name)))
  (tmp_path / "setup.py").write_text("version 1")
  (tmp_path / "launch").mkdir()
  shutil.copy(ROOT / "launch" / "environment.sh", tmp_path / "launch")

  def python(name: str, *, old: bool = False, without_venv: bool = False):
    path = programs / name
    path.write_text(
      FAKE_PYTHON.format(old=int(old), without_venv=int(without_venv))
    )
    path.chmod(0o755)

  def prepare(extra: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
      [
        "bash",
        "-euo",
        "pipefail",
        "-c",
        f"source launch/environment.sh; prepare {extra}",
      ],
      cwd=tmp_path,
      env={
        "PATH": str(programs),
        "NOTES": str(tmp_path / "notes"),
        "FAILS": str(tmp_path / "no_network"),
      },
      capture_output=True,
      text=True,
      check=False,
    )

  def notes() -> str:
    path = tmp_path / "notes"
    return path.read_text() if path.exists() else ""

  return python, prepare, notes, tmp_path


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_a_script_is_clean_and_names_its_licence(path):
  subprocess.run(["bash", "-n", str(path)], check=True)
  assert "# SPDX-License-Identifier: Apache-2.0" in path.read_text()
  shellcheck = pathlib.Path(sys.executable).with_name("shellcheck")
  result = subprocess.run(
    [str(shellcheck), "--external-sources", str(path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout


def test_without_a_python_the_line_says_which_is_wanted(machine):
  _, prepare, _, _ = machine
  result = prepare()
  assert result.returncode == 2
  assert result.stderr.startswith(
    "Error: no Python 3.11 or newer was found (tried python3, "
  )


def test_an_old_python3_is_passed_over_for_a_newer_one(machine):
  python, prepare, notes, root = machine
  python("python3", old=True)
  assert prepare().returncode == 2
  python("python3.12")
  result = prepare()
  assert result.returncode == 0, result.stderr
  assert f"python3.12 -m venv --clear {root}/.venv" in notes()


def test_a_python_without_venv_names_the_package(machine):
  python, prepare, _, root = machine
  python("python3", without_venv=True)
  result = prepare()
  assert result.returncode == 2
  assert result.stderr == (
    "Error: python3 cannot make virtual environments: install its venv package "
    "(on Debian and Ubuntu, as root: apt-get install python3-venv) and start "
    "again.\n"
  )
  assert not (root / ".venv").exists()


def test_it_installs_once_and_again_when_setup_changes(machine):
  python, prepare, notes, root = machine
  python("python3")
  for _ in range(2):
    assert prepare("test").returncode == 0
  install = "python -m pip install --quiet --editable .[test]"
  assert notes().count(install) == 1
  (root / "setup.py").write_text("version 2")
  assert prepare("test").returncode == 0
  assert notes().count(install) == 2
  assert notes().count("-m venv") == 1


def test_an_installation_that_failed_is_tried_again(machine):
  python, prepare, notes, root = machine
  python("python3")
  (root / "no_network").touch()
  result = prepare()
  assert result.returncode == 2
  assert "the installation failed" in result.stderr
  (root / "no_network").unlink()
  assert prepare().returncode == 0
  assert notes().count("pip install") == 2
