# SPDX-License-Identifier: Apache-2.0
"""Configs: the checks of their fields, and overrides by flags."""
