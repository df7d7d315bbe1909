# SPDX-License-Identifier: Apache-2.0
"""Diffusion as pure functions of arrays; no net is known here."""
