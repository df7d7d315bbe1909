# SPDX-License-Identifier: Apache-2.0
"""Pretraining on SubjectWorld: what published checkpoints replace."""
