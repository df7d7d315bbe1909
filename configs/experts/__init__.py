# SPDX-License-Identifier: Apache-2.0
"""Stages 1 to 5, each config as what it differs in."""
