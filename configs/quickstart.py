# SPDX-License-Identifier: Apache-2.0
"""The whole loop, small, on SubjectWorld: eight stages and a report.

  suti run --config configs/quickstart.py --workdir runs/quickstart
  suti run --config configs/quickstart.py:tiny --workdir runs/tiny

Hardware: a CPU with 2 cores, no accelerator. `:tiny` is the same loop with
the least of everything: it shows that all parts work and measures nothing.
Each field can be given on the command line: `--config.train.num_steps=500`.

This is the config that all others differ from. Every value is sized for two
cores; where the paper has one, it stands beside it.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config(arg: str = "") -> ConfigDict:
  """All sections.

  Args:
    arg: "" or "tiny", what follows the colon in the path.

  Returns: the config.
  """
  config = ConfigDict()
  config.seed = 0
  config.size_px = 64
  # A shipped model's name (suti/pretrained), or a folder in the published
  # layout.
  config.backbone = "world_base"
  config.clip = "world_clip"  # paper: ViT-L/14
  config.identity = "world_identity"
  # Evaluates alone, and neither filters nor conditions; by the world's truth,
  # so that on photographs it is not used.
  config.judge = "world_judge"

  # For training: over how many devices its batch is spread (both axes) and its
  # parameters (fsdp); -1 takes those that the other leaves. Tuning of experts
  # and sampling use all devices of a host, whatever stands here.
  config.mesh = ConfigDict({"data": -1, "fsdp": 1})

  config.mine = _mine()
  config.prompts = _prompts()
  config.finetune = _finetune()
  config.sample = _sample()
  config.filter = ConfigDict(
    {
      "name": "suti",  # a file of experts/filters
      # Another rule than the filter's own: conditions on the measures of
      # suti/evaluation/measures, as "delta_clip > 0.02, identity > 0.6".
      "rule": placeholder(str),  # paper: delta_clip > 0.02, the filter's own
      # The file of a linear head on config.clip, for the measure `aesthetic`;
      # "" is none.
      "aesthetic": "",
      # Whether images of a group are compared by the squares around their
      # subjects, where their masks are known, or whole.
      "crop": False,
    }
  )
  config.label = _label()
  config.pack = ConfigDict(
    {
      "shard_size": 256,
      # What is shown of a subject: cluster, its own pictures | group, the kept
      # images that were sampled in the target's sight. Paper: cluster.
      "demonstrations": "cluster",
      # What examples are prompted by: sampled, as their images were | noun, the
      # same with nouns in the place of descriptions. Paper: sampled.
      "prompts": "sampled",
    }
  )

  config.train = _train()
  config.method = _method()
  config.apprentice_sample = _apprentice_sample()

  config.benchmark = _benchmark()
  config.plan = _plan()
  config.report = ConfigDict(
    {
      "title": "SuTI quickstart",
      "num_subjects": 6,
      "num_prompts": 6,
      "num_examples": 8,  # best and worst of the kept and of the dropped
    }
  )

  if arg == "tiny":
    _make_tiny(config)
  elif arg:
    raise ValueError(
      f"configs/quickstart.py:{arg}: expected ':tiny' or nothing after the "
      "path."
    )
  return config.lock()


def _mine() -> ConfigDict:
  """Where clusters of pictures come from, and which are kept."""
  return ConfigDict(
    {
      "source": "world",  # world | heldout | folder | table
      "path": "",  # of the folder of folders, the table, or its parts' folder
      "split": "train",
      "num_pages": 48,  # paper: 45M pages
      "min_images": 3,  # paper: 3
      "max_images": 10,  # paper: 10
      # Mean pairwise CLIP similarity of a page that is kept: below, it shows
      # several subjects; above, one picture many times. Paper: 0.82 to 0.98
      # with ViT-L/14; this is what the summary of experts.mine says with a
      # small CLIP, of 240 validation pages mined with the band open, -1 to 1.
      "similarity_low": -0.14,
      "similarity_high": 0.77,
      # CLIP similarity of a picture and its own text, below which it is left
      # out; pictures without a text stay. The paper mentions such a filter and
      # no threshold: off, as a third of this web's texts say nothing.
      "text_similarity_low": placeholder(float),
      # What experts are tuned on, unseen prompts name the subject by and
      # demonstrations are captioned with: noun, "a dog" | descriptive, "a
      # spotted brown dog" (paper: one descriptive text a cluster). The noun
      # here, as DreamBench's prompts and `suti generate` have it, until experts
      # are compared under both: docs/held_out.md.
      "captions": "noun",
    }
  )


def _prompts() -> ConfigDict:
  """What experts are asked to show their subjects in."""
  return ConfigDict(
    {
      "source": "unseen",  # unseen | dreambench | list
      "path": "",  # of the list, a file; see suti/evaluation/prompt_list.py
      # Of DreamBench's 2 x 25: all | seen, which leaves 2 x 5 and one pair in
      # six out for evaluation | held_out, those alone (suti/world/held_out.py).
      "templates": "all",
      "num_per_cluster": 4,  # paper: 1
      # Also view, expression and composition, which the paper's figures show,
      # and style, the fourth of the paper's: the shipped CLIP has seen none and
      # would filter it at chance (docs/subject_world.md).
      "skills": ("recontextualization", "attribute", "accessory"),
    }
  )


def _finetune() -> ConfigDict:
  """Tuning of one expert for each cluster, in waves."""
  return ConfigDict(
    {
      "teacher": "dreambooth",  # a file of experts/teachers
      "text_dtype": "float32",  # of the text encoders; the paper is silent
      # Too few for an expert to set beside the paper's: for minutes on a CPU.
      "num_steps": 60,  # paper: 500
      "batch_size": 4,  # the paper is silent
      "learning_rate": 1e-4,  # paper: 1e-5
      "optimizer": "adafactor",
      # As the base was trained; paper: uniform.
      "weighting": "snr_plus_one",
      "snr_gamma": 200.0,  # the cap of min_snr, clamped_snr and snr_plus_one
      # Steps whose log SNR is normal, with this mean and deviation, as the base
      # was trained; None is uniform steps, as in the papers.
      "log_snr_mean": -0.5,
      "log_snr_std": 2.0,
      # Filled up to a multiple of a host's devices. Paper: 400, one a core.
      "experts_per_wave": 4,
      # Experts that a device tunes together: a number, or "auto", as many as
      # it has room for; the wave then fills all devices. None: see above.
      "experts_per_device": placeholder(object),
      "num_clusters": placeholder(int),  # the first N clusters; all of them
      # An expert is tuned on the first N pictures of its cluster; all of them.
      # `suti run` gives a benchmark's experts the apprentice's demonstrations.
      "num_pictures": placeholder(int),
      # How the experts of one device run: vmap, all together | map, one after
      # the other, in the memory of one | auto, vmap where there is room.
      "inner": "vmap",
      # Rematerialise the insides of layers in the backward pass, which takes
      # less memory and more time; no effect on a CPU.
      "remat": False,
      "dtype": "float32",  # of the arithmetic; the paper is silent
      # Of the weights that the optimizer updates; bfloat16 is rounded
      # stochastically.
      "master_dtype": "float32",
      # An expert stops when the mean loss of `stop_window` steps is not by the
      # share `stop_gain` below that of as many before; 0 never. Paper: never.
      "stop_window": 0,
      "stop_gain": 0.02,
      # An expert is quarantined when the mean loss of 25 steps is more than so
      # many times that of its first 25, or that times 50 / batch_size its very
      # first loss; 0 never. The paper is silent.
      "diverged": 6.0,
      # Experts of a wave for each slot on the devices: a slot whose expert is
      # done is refilled with the next. With experts_per_device waves are that
      # much larger. 1: each expert has a slot of its own. Paper: 1.
      "experts_per_slot": 1,
      "rank": 8,  # of the teacher `lora`
      # Of the teacher `syncd`: "", its deformable variant | none, the rigid one
      # on the base itself, which does not follow depths | the folder of a net
      # that does, as suti.pretrain.depth trains.
      "depth_net": "",
      "checkpoint_every": 100,
      "log_every": 10,
      # Traced for TensorBoard's profiler once the step is compiled; see
      # experts/farm/monitor.py for how to trace a running worker.
      "profile_steps": 0,
      # A worker that has not renewed its lease for so long loses its wave to
      # another.
      "lease_s": 60.0,
      # Time for a last checkpoint after SIGTERM; a preemptible TPU has 30 s.
      "grace_s": 25.0,
      # Whether candidates are sampled right after tuning, while the weights
      # are on the devices, or later by `experts.sample`: the same pictures.
      "sample_after_tuning": True,
      # What is kept of an expert: trainable, what its teacher trains (a LoRA's
      # matrices, all of a U-Net) | difference, what that changed, in bfloat16 |
      # nothing, once its candidates are sampled. Paper: nothing.
      "keep": "trainable",
    }
  )


def _sample() -> ConfigDict:
  """Sampling of the experts' candidates."""
  return ConfigDict(
    {
      "images_per_prompt": 1,
      # Images of a subject that are sampled in each other's sight, by a
      # teacher that does so; 1 samples each alone.
      "together": 1,
      # What guidance leads away from, "" for the null text, and what is added
      # to each prompt, for sampling alone; the paper is silent.
      "negative_prompt": "",
      "suffix": "",
      # For teachers that ask for views of known geometry: how much of the frame
      # the subject takes in each, and each pair of views shows, at least, and
      # which view of a set the others are compared with. SynCD: 0.1, 0.1, last
      # in its code, first in the paper.
      "view_area": 0.1,
      "view_overlap": 0.1,
      "view_source": "last",  # last | first
      "syncd": _syncd(),
      "guidance": 3.0,  # paper: 30
      "sampler": "dpmpp_2m",  # ddpm | ddim | dpmpp_2m; paper: ddpm
      "num_steps": 12,
      # Of dynamic thresholding, on pixels only; None clips. Latents are
      # neither thresholded nor clipped.
      "percentile": 99.5,
      "batch_size": 8,
    }
  )


def _syncd() -> ConfigDict:
  """Of the teacher `syncd` alone; the defaults are its published code's."""
  return ConfigDict(
    {
      # Whether images attend to each other's subjects.
      "share": True,
      # Whether they see all of each other at the first step (paper and code).
      "open_first_step": True,
      # Whether the first step is guided; in its code from the second on.
      "guide_first_step": False,
      # Positions a side that masks are widened to, of the finest map that
      # attends; None: 9 of 32 for rigid subjects, 3 of 64 for others.
      "dilate": placeholder(int),
      # Deformable: whether maps of attention are averaged over the steps so
      # far (code), or the last step's are taken.
      "average_steps": True,
      # Rigid: what is carried between images: latents (code), on a grid of up
      # to 128 | finest, the same of a base of latents, and each pixel of one of
      # pixels, behind its patches | features (paper, eq. 2), before each
      # self-attention | none.
      "warp": "latents",
      # At larger shares of noise, sigma / (alpha + sigma); the paper is silent.
      "warp_above": 0.8,
      # Below this share masks lose their outermost pixels before.
      "thin_below": 0.9,
      # bicubic (code) | bilinear (paper) | nearest, which keeps noise.
      "warp_method": "bicubic",
      # Whether the image at the other end also gets what the first does not
      # show, from its neighbour (code), or not (paper).
      "warp_chain": True,
    }
  )


def _label() -> ConfigDict:
  """Masks, boxes and depths of pictures and candidates; the paper has none."""
  return ConfigDict(
    {
      # none | world, SubjectWorld's truth | folder, NAME.mask.png beside NAME |
      # segmenter, which finds the subject.
      "source": "none",
      "path": "",  # of the folder; "" is config.mine.path
      # Who says where the subject of a candidate is: none | teacher, if it
      # does | segmenter. For measures and methods that ask for it.
      "candidates": "none",
      # A folder that suti.pretrain.segmenter wrote: none is shipped.
      "segmenter": "",
      # As a detector errs: the share of pictures in which it finds nothing, the
      # noise of each edge of a box in its sizes, and pixels off each mask.
      "miss": 0.0,
      "jitter": 0.0,
      "erode": 0,
    }
  )


def _train() -> ConfigDict:
  """Training of the apprentice."""
  return ConfigDict(
    {
      "method": "suti",  # a file of apprentice/methods
      # A backbone (new layers start at zero output), or an apprentice's folder.
      "init": "world_apprentice",
      # The base of init's apprentice, if it is moved to config.backbone; or "".
      "init_base": "",
      # The share taken of what init's apprentice has learned.
      "init_share": 1.0,
      "examples": (),  # folders of experts.pack of other runs, added
      # Of all these, those whose measures pass another rule than what they were
      # packed by, and those of the first N clusters; None: all.
      "rule": placeholder(str),
      "num_clusters": placeholder(int),
      "num_steps": 100,  # paper: 150,000
      "batch_size": 8,  # the paper is silent
      "optimizer": "adafactor",  # adafactor (paper) | adam | muon
      # Paper: 1e-4. Here training continues on fewer than a hundred experts'
      # images, softer than the true renders that the shipped apprentice learned
      # from: at 2e-5 identity fell from 0.721 to 0.704 and sharpness
      # from 16.4 to 14.5, at this rate with decay=0.5 to 0.712 and 15.1.
      "learning_rate": 5e-6,
      "dtype": "float32",  # of the arithmetic; the paper is silent
      "save_dtype": "float32",  # of the weights written at the end
      # As the base was trained; see config.finetune.
      "weighting": "snr_plus_one",
      "snr_gamma": 200.0,
      "log_snr_mean": -0.5,
      "log_snr_std": 2.0,
      "warmup_steps": 10,
      "decay": placeholder(float),  # share of steps in which the rate falls
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
      "joint_dropout": 0.1,
      "text_dropout": 0.05,
      "demonstration_dropout": 0.05,
      # Whether these three exclude each other, as in IP-Adapter and SynCD:
      # no other examples lack both.
      "exclusive_dropout": False,
      # The share of examples without one of the method's own conditions, for
      # each of them by itself; suti has none.
      "condition_dropout": 0.1,
      "ema": 0.99,
      "grad_clip": 1.0,
      "checkpoint_every": 50,
      "log_every": 10,
    }
  )


def _method() -> ConfigDict:
  """The apprentice's architecture, by config.train.method."""
  return ConfigDict(
    {
      # Which transformer blocks attend to the demonstrations: all of the
      # small base's. Paper, by its figures: those of the decoder.
      "sites": r"transformer_blocks\.\d+$",
      "num_heads": 4,  # the paper is silent
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


def _apprentice_sample() -> ConfigDict:
  """Sampling of the apprentice."""
  return ConfigDict(
    {
      "num_demonstrations": 4,  # paper: 4
      # What is sampled for the benchmark's prompts (apprentice/systems.py):
      # apprentice | before (this run's training) | base | text_only | copy |
      # wrong_subject | shuffled.
      "systems": ("apprentice", "before", "base", "copy", "wrong_subject"),
      # How text and pictures guide: joint (together, one weight) | two (a
      # weight each) | normalised | interleaved | agnostic | independent, see
      # suti/diffusion/guidance_modes.py. The paper is silent.
      "guidance_mode": "joint",
      "images_per_prompt": 1,  # paper: 4
      # On 24 validation subjects 12 steps of this sampler score as 20 of ddim,
      # and weights of 2 to 4 differ little.
      "guidance": 3.0,  # paper: 15
      # The text's own weight, of all modes but joint; None: as guidance.
      "text_guidance": placeholder(float),
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


def _benchmark() -> ConfigDict:
  """Held-out subjects and prompts, after DreamBooth's benchmark."""
  return ConfigDict(
    {
      "source": "world",  # world | folder
      "path": "",
      # Of the world's subjects: validation to choose by, test once at the end.
      "split": "test",
      # A file of prompts (suti/evaluation/prompt_list.py), such as
      # suti/world/prompts_beforehand.csv; "" for DreamBench's.
      "prompts": "",
      "templates": "all",  # of DreamBench's: all | seen | held_out
      "num_subjects": 6,  # DreamBench: 30
      # Real pictures of a subject, which generated images are compared with;
      # the first are demonstrations too. Of a folder all are taken.
      "images_each": 5,
      "num_prompts": 6,  # DreamBench: 25
      "num_expert_subjects": 2,  # of them, how many get an expert too
    }
  )


def _plan() -> ConfigDict:
  """For `suti plan` alone, which compiles for TPUs and runs nothing."""
  return ConfigDict(
    {
      "stages": ("finetune", "sample", "filter", "train", "apprentice_sample"),
      "num_subjects": 1000,  # paper: 1.8M
      # Share of a chip's peak that matrix products reach: an assumption, not a
      # measurement.
      "share_of_peak": 0.4,
      # XLA's optimization effort: stages run with 0. -1 compiles the paper's
      # experts in 5 minutes instead of 18, to a step of twice the time.
      "effort": 0.0,
      # By your contract, in any currency; without it no cost is printed.
      "price_per_chip_hour": ConfigDict(
        {kind: placeholder(float) for kind in ("v4", "v5e", "v5p", "v6e")}
      ),
      # Published configs (configs/backbones) of models whose folders are not
      # here; {} reads their own folders, as config.backbone names one.
      "backbone": ConfigDict(),
      "clip": ConfigDict(),
      "identity": ConfigDict(),
      "encoder": ConfigDict(),  # of config.method.encoder
    }
  )


def _make_tiny(config: ConfigDict) -> None:
  """The least of everything, for CI: minutes, and no result worth reading."""
  config.mine.num_pages = 8
  config.prompts.num_per_cluster = 2
  config.finetune.update(num_steps=2, experts_per_wave=2, batch_size=2)
  config.sample.update(num_steps=2, batch_size=4)
  # Two steps teach nothing, so nothing would pass the paper's rule.
  config.filter.rule = "delta_clip > -1"
  config.pack.shard_size = 4
  config.train.update(
    num_steps=4, batch_size=8, warmup_steps=1, checkpoint_every=2, log_every=1
  )
  config.apprentice_sample.update(num_steps=2, batch_size=8)
  config.benchmark.update(
    num_subjects=2, images_each=4, num_prompts=2, num_expert_subjects=1
  )
  config.report.update(title="SuTI quickstart, tiny", num_examples=2)
