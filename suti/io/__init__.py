# SPDX-License-Identifier: Apache-2.0
"""Storage on disks and in buckets: files, checkpoints, records, images."""
