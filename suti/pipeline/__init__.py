# SPDX-License-Identifier: Apache-2.0
"""Whole text-to-image models, assembled from their published parts."""
