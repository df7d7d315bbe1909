# SPDX-License-Identifier: Apache-2.0
"""Configs are data: `get_config(arg)` returns a locked ConfigDict."""
