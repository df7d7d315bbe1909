# SPDX-License-Identifier: Apache-2.0
"""What published checkpoints replace at full scale.

A text-to-image base, a CLIP and an identity encoder, trained on SubjectWorld's
training subjects: `python -m suti.pretrain.NAME`, NAME one of clip,
identity, judge, text_to_image.
"""
