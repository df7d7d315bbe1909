# SPDX-License-Identifier: Apache-2.0
"""Fields of stages 1 to 5: what the teacher and its filter do."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def mine() -> ConfigDict:
  """Where clusters of pictures come from, and which are kept."""
  return ConfigDict(
    {
      "source": "world",  # world | heldout | folder | table
      "path": "",  # of the folder of folders, the table, or its parts' folder
      "split": "train",
      # Of source heldout alone: subjects of these classes; () of all.
      "nouns": (),
      "num_pages": 72,  # paper: 45M pages
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


def prompts() -> ConfigDict:
  """What experts are asked to show their subjects in."""
  return ConfigDict(
    {
      "source": "unseen",  # unseen | dreambench | list
      "path": "",  # of the list, a file; see suti/evaluation/prompt_list.py
      # Of DreamBench's 2 x 25: all | seen, which leaves 2 x 5 and one pair in
      # six out for evaluation | held_out, those alone (suti/world/held_out.py).
      "templates": "all",
      "num_per_cluster": 8,  # paper: 1
      # Also view, expression and composition, which the paper's figures show,
      # and style, the fourth of the paper's: the shipped CLIP has seen none and
      # would filter it at chance (docs/subject_world.md).
      "skills": ("recontextualization", "attribute", "accessory"),
    }
  )


def finetune() -> ConfigDict:
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


def sample() -> ConfigDict:
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
      "syncd": syncd(),
      "guidance": 3.0,  # paper: 30
      "sampler": "dpmpp_2m",  # ddpm | ddim | dpmpp_2m; paper: ddpm
      "num_steps": 12,
      # Of dynamic thresholding, on pixels only; None clips. Latents are
      # neither thresholded nor clipped.
      "percentile": 99.5,
      "batch_size": 8,
    }
  )


def syncd() -> ConfigDict:
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


def label() -> ConfigDict:
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


def filter_() -> ConfigDict:
  """Which candidates are kept."""
  return ConfigDict(
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


def pack() -> ConfigDict:
  """What an example is made of."""
  return ConfigDict(
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
