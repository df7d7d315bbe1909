# SPDX-License-Identifier: Apache-2.0
"""Where arrays live: the mesh of devices, and the rules that shard by name."""
