# SPDX-License-Identifier: Apache-2.0
"""Configs: what may stand in one, and how a command line changes it."""
