# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning on one subject: SuTI's experts (arXiv 2304.00186, 3.3).

DreamBooth (arXiv 2208.12242) with the paper's three differences: Adafactor in
the place of Adam (`config.finetune.optimizer`), no rare token beside the noun,
and no prior-preservation set. The whole U-Net is trained; the text encoder is
frozen.
"""

from experts.teacher import Teacher, guided_sample, tuning_loss

TEACHER = Teacher(
  paper="https://arxiv.org/abs/2208.12242",
  declare=lambda backbone, config: backbone.unet,
  trainable=r"",  # every name
  loss=tuning_loss,
  sample=guided_sample,
)
