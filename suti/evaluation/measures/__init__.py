# SPDX-License-Identifier: Apache-2.0
"""One file per measure of a candidate; each defines `MEASURE`."""
