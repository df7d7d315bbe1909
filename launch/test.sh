#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tests that need nothing but this machine: an environment, then pytest.
# Whole runs that are killed, or on several hosts, are apart: `-m processes`.
#
#   bash launch/test.sh                     17 minutes on 2 cores
#   bash launch/test.sh tests/nn -x         what follows goes to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare test

# A process a core, and no more than eight: each compiles for itself.
cores="$(nproc)"
exec "$VENV/bin/python" -m pytest \
  --numprocesses "$((cores < 8 ? cores : 8))" --dist worksteal "$@"
