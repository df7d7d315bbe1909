# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Makes a Python environment and installs the project into it; to be sourced.
#
#   source launch/environment.sh      then: prepare [EXTRA]
#
# The environment is .venv, or what $SUTI_VENV names; it is made with python3,
# or with what $PYTHON names. Starting again after any interruption is safe: an
# installation counts only once its stamp is written, and the stamp is of this
# setup.py.

VENV="${SUTI_VENV:-$PWD/.venv}"

_fail() {
  echo "Error: $*" >&2
  exit 2
}

# The first Python that is new enough.
_find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
      > /dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  _fail "no Python 3.11 or newer was found (tried ${PYTHON:-python3}," \
    "python3.13, python3.12, python3.11): install one, or name it:" \
    "PYTHON=/path/to/python3 bash $0"
}

# prepare EXTRA: an environment with the project and the extra's packages.
prepare() {
  local extra="${1:-}" python stamp wanted
  stamp="$VENV/.installed${extra:+-$extra}"
  wanted="$PWD $(cksum < setup.py)"
  if [[ -x "$VENV/bin/python" && "$(cat "$stamp" 2> /dev/null)" == "$wanted" ]]
  then
    return
  fi
  if ! "$VENV/bin/python" -m pip --version > /dev/null 2>&1; then
    python="$(_find_python)" || exit 2
    "$python" -c 'import ensurepip, venv' > /dev/null 2>&1 || _fail \
      "$python cannot make virtual environments: install its venv package" \
      "(on Debian and Ubuntu, as root: apt-get install python3-venv) and" \
      "start again."
    echo "Making $VENV with $("$python" --version) ..."
    "$python" -m venv --clear "$VENV" ||
      _fail "$VENV could not be made; see above."
  fi
  echo "Installing into $VENV (a few minutes the first time) ..."
  # An old pip would build one package in a way that it warns of; a new one
  # knows this setting no more.
  PIP_USE_PEP517=1 "$VENV/bin/python" -m pip install --quiet --editable ".${extra:+[$extra]}" ||
    _fail "the installation failed; see above. Start again to go on."
  echo "$wanted" > "$stamp"
}
