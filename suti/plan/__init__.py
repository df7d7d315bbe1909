# SPDX-License-Identifier: Apache-2.0
"""Plans a run on a TPU slice that is not there: `suti plan`."""
