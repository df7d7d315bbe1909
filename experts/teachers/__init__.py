# SPDX-License-Identifier: Apache-2.0
"""One file per method that makes pseudo-targets; each defines `TEACHER`."""
