# SPDX-License-Identifier: Apache-2.0
"""One file per published system; each defines `METHOD`."""
