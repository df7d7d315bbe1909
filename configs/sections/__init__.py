# SPDX-License-Identifier: Apache-2.0
"""Every field of the loop, with its comment: a function for each section."""
