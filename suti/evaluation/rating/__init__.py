# SPDX-License-Identifier: Apache-2.0
"""People rate pictures in a browser, blind."""
