# SPDX-License-Identifier: Apache-2.0
"""How a stage runs: its folder, its log, other processes, interruptions."""
