# SPDX-License-Identifier: Apache-2.0
"""Whole text-to-image models, put together of their published parts."""
