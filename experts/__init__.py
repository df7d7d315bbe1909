# SPDX-License-Identifier: Apache-2.0
"""Stages 1 to 5: many experts, each of one subject, make the data.

  mine      web pairs -> clusters of one subject
  prompts   cluster -> what no picture of it shows yet
  finetune  clusters -> experts, a wave of them in one compiled step
  sample    experts x prompts -> candidates
  filter    candidates -> scores, some of them kept
  pack      kept candidates -> shards that the apprentice reads

SuTI (arXiv 2304.00186), section 3. Nothing here imports `apprentice`.
"""
