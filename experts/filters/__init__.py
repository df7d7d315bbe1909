# SPDX-License-Identifier: Apache-2.0
"""One file per published filter of candidates; each defines `FILTER`."""
