# SPDX-License-Identifier: Apache-2.0
"""LoRA experts: the base is shared, an expert is a few low-rank matrices.

LoRA (arXiv 2106.09685) on the projections of all attention layers, of rank
`config.finetune.rank`. Loss and sampling are those of full fine-tuning. When
mapped over experts, a convolution of the base stays a single one, so that
hundreds of experts fit where one fully fine-tuned one does. `experts.export`
writes each as a file that other tools open.
"""

from experts.teacher import Teacher, guided_sample, tuning_loss
from suti.nn.surgery import lora
from suti.pipeline.backbone import Backbone

# Of Stable Diffusion and SDXL; and of IF, whose one layer per site projects
# pictures and texts separately.
_PROJECTIONS = r"(attn\d|attentions\.\d+)\.(to_(q|k|v|out\.0)|add_(k|v)_proj)$"


def declare(backbone: Backbone, config):
  """Adds low-rank updates to every attention projection."""
  return lora(backbone.unet, _PROJECTIONS, rank=config.rank)


TEACHER = Teacher(
  paper="https://arxiv.org/abs/2106.09685",
  declare=declare,
  trainable=r"\.lora_[AB]\.",
  loss=tuning_loss,
  sample=guided_sample,
)
