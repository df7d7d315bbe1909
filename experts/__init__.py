# SPDX-License-Identifier: Apache-2.0
"""Stages 1 to 5: one expert per subject, whose samples train the apprentice.

  mine      web pairs -> clusters, each of one subject
  prompts   cluster -> unseen prompts
  finetune  clusters -> experts, a wave of them in one compiled step
  sample    experts x prompts -> candidates
  filter    candidates -> scores, and which are kept
  pack      kept candidates -> shards that the apprentice reads

SuTI (arXiv 2304.00186), section 3. Nothing here imports `apprentice`.
"""
