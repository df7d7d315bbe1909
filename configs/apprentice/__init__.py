# SPDX-License-Identifier: Apache-2.0
"""Stages 6 to 8, each config as what it differs in."""
