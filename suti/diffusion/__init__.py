# SPDX-License-Identifier: Apache-2.0
"""Diffusion as pure functions of arrays, independent of any network."""
