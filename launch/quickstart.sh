#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole loop on SubjectWorld, on a CPU: an environment, then `suti run`.
#
#   bash launch/quickstart.sh          at most 20 minutes on 2 cores
#   bash launch/quickstart.sh tiny     the least of everything, a few minutes
#
# Killed anywhere and started again, it goes on from where it stopped. The report
# is runs/quickstart/report/index.html; $SUTI_WORKDIR puts it elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
prepare

size="${1:-}"
workdir="${SUTI_WORKDIR:-runs/quickstart${size:+-$size}}"
# Without an accelerator jax would look for one first and say so.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
exec "$VENV/bin/suti" run \
  --config "configs/quickstart.py${size:+:$size}" --workdir "$workdir"
