# SPDX-License-Identifier: Apache-2.0
"""Fields of stages 6 and 7: the apprentice, its training, its sampling."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def train() -> ConfigDict:
  """Training of the apprentice."""
  return ConfigDict(
    {
      "method": "suti",  # a file of apprentice/methods
      # A backbone (new layers start at zero output), or an apprentice's folder.
      "init": "world_base",
      # The base of init's apprentice, if it is moved to config.backbone; or "".
      "init_base": "",
      "examples": (),  # folders of experts.pack of other runs, added
      # Of all these, those whose measures pass another rule than what they were
      # packed by, and those of the first N clusters; None: all.
      "rule": placeholder(str),
      "num_clusters": placeholder(int),
      # And those whose prompts name none of these: ("dog", "boot").
      "without_nouns": (),
      # Of what is left, clusters that are held out: the loss on them is logged
      # at each checkpoint, with and without demonstrations. The paper reports
      # none; 0 holds none out. At most a third of the clusters are.
      "validation_clusters": 4,
      "num_steps": 300,  # paper: 150,000
      "batch_size": 16,  # the paper is silent
      "optimizer": "adafactor",  # adafactor (paper) | adam | muon
      # A constant step of 1e-4 (paper) is for 2.1B parameters that know the
      # world; new layers in a small U-Net want more.
      "learning_rate": 4e-4,
      "dtype": "float32",  # of the arithmetic; the paper is silent
      "save_dtype": "float32",  # of the weights written at the end
      # As the base was trained, see config.finetune, but for the mean, which is
      # -0.5 there: demonstrations tell most where there is much noise.
      "weighting": "snr_plus_one",
      "snr_gamma": 200.0,
      "log_snr_mean": -2.0,
      "log_snr_std": 2.0,
      "warmup_steps": 20,
      "decay": 0.4,  # share of steps in which the rate falls; None: it stays
      "min_demonstrations": 1,  # K is drawn from min to num; paper: 3
      "num_demonstrations": 3,  # paper: 3
      "max_demonstrations": 10,
      # Share of examples whose target is one of their own demonstrations.
      "demonstration_targets": 0.0,
      # Whether a subject with fewer pictures than num_demonstrations is shown
      # mirror images too: none | demonstrations, of them | all, also of the
      # target, as in SynCD's code.
      "mirror": "none",
      # Encodes each picture once, where the base works on latents; one process.
      "cache_latents": True,
      # Shares of examples; the paper is silent. That of joint guidance's null,
      # without text and demonstrations, is joint_dropout and a little: of the
      # others, text and demonstrations are dropped independently.
      "joint_dropout": 0.05,
      "text_dropout": 0.1,
      "demonstration_dropout": 0.1,
      # Whether these three exclude each other, as in IP-Adapter and SynCD:
      # no other examples lack both.
      "exclusive_dropout": False,
      # The share of examples without one of the method's own conditions, for
      # each of them by itself; suti has none.
      "condition_dropout": 0.1,
      "ema": 0.98,
      "grad_clip": 1.0,
      "checkpoint_every": 50,
      "log_every": 10,
    }
  )


def method() -> ConfigDict:
  """The apprentice's architecture, by config.train.method."""
  return ConfigDict(
    {
      # Which transformer blocks attend to the demonstrations: all of the
      # small base's. Paper, by its figures: those of the decoder.
      "sites": r"transformer_blocks\.\d+$",
      # What these layers read of the demonstrations: encoder, the features of
      # its encoder, as in the paper | self_attention, what the self-attention
      # of the same block is given, by projections that start as its own.
      "features": "self_attention",
      # Whether they know where in the frame they look from and to; the paper is
      # silent. docs/results.md has what both are worth.
      "positions": True,
      "num_heads": 4,  # of "encoder"; the paper is silent
      # Hidden width of a feed-forward behind each of these layers, in widths of
      # its site; 0 is none. Paper, by its number of parameters: 4.
      "feed_forward": 0,
      # Whether the loss also trains the encoder through the demonstrations'
      # features: it costs more, and the paper seems to do it.
      "encoder_gradient": False,
      # Regex over the names of the parameters that learn; None is the method's
      # own choice, for suti all of them.
      "trainable": placeholder(str),
    }
  )


def apprentice_sample() -> ConfigDict:
  """Sampling of the apprentice."""
  return ConfigDict(
    {
      "num_demonstrations": 4,  # paper: 4
      # What is sampled for the benchmark's prompts (apprentice/systems.py):
      # apprentice | before (this run's training; of a method that starts as
      # its base and has init a base, that is the base) | base | text_only |
      # copy | wrong_subject | shuffled.
      "systems": ("apprentice", "base", "copy", "wrong_subject"),
      # How text and pictures guide: joint (together, one weight) | two (a
      # weight each) | normalised | interleaved | agnostic | independent, see
      # suti/diffusion/guidance_modes.py. The paper is silent.
      "guidance_mode": "two",
      "images_per_prompt": 1,  # paper: 4
      # The pictures' weight, and the text's own, of all modes but joint; None:
      # as guidance. docs/results.md has how they were chosen.
      "guidance": 5.0,  # paper: 15
      "text_guidance": 3.0,
      # Of the systems base and text_only, which see no pictures.
      "base_guidance": 3.0,
      # What is added to each weight as the noise goes, all of it at the end.
      # SynCD: 5 to the pictures' 8, 0 to the text's 7.5.
      "guidance_ramp": 0.0,
      "text_guidance_ramp": 0.0,
      # Of mode agnostic: the share of the noise steps above which the pictures
      # are hidden, and below it a weight, -1 (hidden) to 0 (seen).
      "agnostic_above": 0.8,
      "agnostic": 0.0,
      # How strongly pictures are seen, of methods that have such a weight: of
      # an IP-Adapter; SynCD 0.6. suti has none: 1.
      "subject_scale": 1.0,
      # The share of the noise steps from which on the base goes on alone,
      # guided by the text, without the pictures; 0 is never.
      "guidance_until": 0.0,
      "sampler": "dpmpp_2m",  # paper: ddpm
      "num_steps": 12,
      "percentile": 99.5,
      "batch_size": 8,
    }
  )
