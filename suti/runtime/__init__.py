# SPDX-License-Identifier: Apache-2.0
"""The runtime of stages: folders, logs, processes, leases and preemption."""
