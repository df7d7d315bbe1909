# SPDX-License-Identifier: Apache-2.0
"""What published checkpoints replace at full scale.

Each is trained on SubjectWorld's training subjects, `python -m
suti.pretrain.NAME`: clip, identity, judge and text_to_image are shipped, depth
and segmenter are not; examples are what the shipped apprentice learned from.
ship, exam and judged measure them.
"""
