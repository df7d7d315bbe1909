# SPDX-License-Identifier: Apache-2.0
"""One file per way to make pictures that no one has; each defines `TEACHER`."""
