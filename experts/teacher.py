# SPDX-License-Identifier: Apache-2.0
"""The `Teacher` record: the interface of a method that makes pseudo-targets.

A file of `experts/teachers` defines `TEACHER`. `experts.finetune` and
`experts.sample` never name one; they find it by the name in the config. Below
the record are functions that teachers may share: opening a net, and loss and
sampling of SuTI (arXiv 2304.00186, section 3.3).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experts import teachers
from experts.mining.labels import KNOWN
from suti.config.names import find_record
from suti.diffusion import samplers
from suti.diffusion.guidance import classifier_free, guided
from suti.diffusion.objective import denoising_loss, normal_steps
from suti.hf.find import find_model
from suti.hf.model import FAMILIES, kind_of, read_config
from suti.hf.weights import load
from suti.nn.nets import Nets, functional_nets, of_net, prefix
from suti.nn.param import Module, Param, cast, init, split, without
from suti.nn.surgery import remat
from suti.pipeline.backbone import Backbone, load_backbone
from suti.pipeline.conditioning import apply_denoiser

# B batch, H W C latent.

Array = jax.Array
Params = Mapping[str, Array]
Apply = Callable[..., Array]


NOTHING = r"(?!)"  # a `trainable` that matches no name
# What a request may hold beside texts (`experts.farm.requests`), and what is of
# texts a batch of the tuning too; of a cluster
#   pictures        `pictures_KHWC`, latents; `pictures_K`, which there are
# and of T of its labelled pictures, one for each row of a group:
#   masks           `masks_THW`, bool, where the subject is
#   depth           `depth_THW`, float32, distance from the camera
#   depth_latents   `depth_THWC`, the same as a picture (`suti.images.depth_u8`)
#                   and then encoded like one
#   correspondence  `places_TTHW2`, float32, where (column, row) in view j each
#                   pixel of view i is, and `seen_TTHW`, whether it is there
# and of each row, whose text is a prompt, or in a batch a picture's caption
#   noun            `noun_BL`, bool, which tokens of its text are the subject's
#                   noun
#   tokens          `ids_BL`, int32, the tokens of its text, as the first text
#                   encoder reads them
LABELLED = frozenset({"masks", "depth", "depth_latents", "correspondence"})
TEXTUAL = frozenset({"noun", "tokens"})
ASKED = LABELLED | TEXTUAL | {"pictures"}
# What labels know, for what they do not have themselves.
_MADE_OF = {"depth_latents": "depth"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
  """A published method that makes pseudo-targets.

  All functions are of one expert; the caller maps them over a wave.

  Attributes:
    paper: link; becomes a row of docs/stages.md.
    declare: (backbone, config) -> net, declared without arrays; config is the
      section `finetune`. Or several nets by name, the backbone's under "", see
      `suti.nn.nets`.
    trainable: regex over parameter names; the rest is shared by all experts,
      frozen and never written.
    loss: (apply, backbone, params, batch, key, config) -> scalar loss. batch
      has `x_BHWC`, pictures of one cluster, their `conditioning`
      (`suti.pipeline.conditioning`), and of what `asks` names that which is of
      texts; config is the section `finetune`. None if the teacher is not tuned:
      then `trainable` matches nothing, and a wave is sampled from what all
      share.
    sample: (apply, backbone, params, request, keys_B, config) -> clean
      x_BHWC. request has the `conditioning` of the prompts and `null`, that of
      the null text, one row, and what `asks` names; a row must depend on its
      own key and text alone; config is the section `sample`.
    asks: what a request holds beside texts, of `ASKED`, or a function of the
      whole config that says so. Row b of a batch is row b % T of its group, T =
      `config.sample.together`.
    masks: whether `sample` returns (x_BHWC, masks_BHW) instead: where the
      subject is, bool or a share in [0, 1], in any resolution; they become
      `Candidate.mask`.
    weights: (backbone, config) -> {name of a net: folder of its published
      weights}, of nets beside the backbone's that are not drawn at random, and
      under "" of one that takes the backbone's place.
    together: whether it samples `config.sample.together` rows, side by side, in
      each other's sight: such a row depends on the others of its group too.
  """

  paper: str
  declare: Callable[[Backbone, Any], Nets]
  trainable: str
  loss: Callable[..., Array] | None
  sample: Callable[..., Any]
  together: bool = False
  asks: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
  masks: bool = False
  weights: Callable[[Backbone, Any], Mapping[str, str]] | None = None

  def __post_init__(self) -> None:
    """Checks that an untuned one trains nothing."""
    assert self.loss is not None or self.trainable == NOTHING, self.trainable

  def asked(self, config: Any) -> frozenset[str]:
    """What its requests hold beside texts, by the whole config."""
    found = self.asks(config) if callable(self.asks) else self.asks
    assert set(found) <= ASKED, found
    return frozenset(found)


def find(name: str) -> Teacher:
  """The teacher of a file of `experts/teachers`.

  Raises:
    ValueError: there is no such file; lists those there are, and the nearest.
  """
  return find_record(
    name, package=teachers, record="TEACHER", field="config.finetune.teacher"
  )


def check_together(teacher: Teacher, config) -> None:
  """Checks that a teacher samples images in groups, if the config says so.

  Raises:
    ValueError: it samples each alone.
  """
  size, name = config.sample.together, config.finetune.teacher
  if size > 1 and not teacher.together:
    raise ValueError(
      f"config.sample.together={size}: the teacher '{name}' samples each image "
      "alone; set it to 1, or take a teacher whose images see each other."
    )


def depth_net_folder(tune: Any) -> Path | None:
  """The U-Net that sees depths, of a section `finetune`; None if it has none.

  Raises:
    ValueError: it names one that is not there.
  """
  name = tune.depth_net
  if name in ("", "none"):
    return None
  try:
    folder = find_model(name) / "unet"
    cause = "" if folder.is_dir() else "it has no folder 'unet'"
  except ValueError as error:
    folder, cause = None, str(error).rstrip(".")
  if cause:
    raise ValueError(
      f"config.finetune.depth_net={name!r}: {cause}. Train a net by python -m "
      "suti.pretrain.depth --config configs/pretrain/depth.py --workdir "
      "runs/pretrain, or set it to none, where images do not follow depths, or "
      "to nothing, the variant without geometry."
    )
  return folder


def asks_labels(teacher: Teacher, config: Any) -> bool:
  """Whether it asks for anything that `experts.label` knows."""
  return bool(LABELLED & teacher.asked(config))


def check_asked(teacher: Teacher, config) -> None:
  """Checks that the source of the labels knows what a teacher asks for.

  Raises:
    ValueError: it does not.
  """
  source, name = config.label.source, config.finetune.teacher
  known = KNOWN.get(source, ())
  for each in sorted(LABELLED & teacher.asked(config)):
    if (wanted := _MADE_OF.get(each, each)) not in known:
      those = [each for each, knows in KNOWN.items() if wanted in knows]
      has = f"knows {' and '.join(known)} alone" if known else "labels nothing"
      raise ValueError(
        f"The teacher '{name}' asks for {wanted}, and config.label.source="
        f"'{source}' {has}: set config.label.source={' or '.join(those)}, or "
        "take another teacher."
      )


def open_backbone(config) -> Backbone:
  """Opens the config's backbone.

  Texts are encoded before a wave is tuned or sampled, so that the text encoders
  do not take device memory from the experts.

  Raises:
    ValueError: it makes pictures of another size.
  """
  backbone = load_backbone(
    config.backbone, text_dtype=config.finetune.text_dtype, text_on_host=True
  )
  check_size(backbone, config)
  return backbone


def check_size(backbone: Backbone, config) -> None:
  """Checks that a backbone makes pictures of the config's size.

  Raises:
    ValueError: it does not.
  """
  if backbone.size_px != config.size_px:
    raise ValueError(
      f"config.size_px={config.size_px}, but config.backbone="
      f"'{config.backbone}' makes pictures of {backbone.size_px} px: set "
      f"config.size_px={backbone.size_px}."
    )


def declare(
  teacher: Teacher, backbone: Backbone, config, *, read: bool = True
) -> tuple[Apply, dict[str, Array], dict[str, Array]]:
  """The net of a teacher: (apply, trainable parameters, frozen ones).

  Parameters that the backbone does not have are initialised from their names
  and the config's seed, the same for every expert. Frozen ones have the dtype
  that the net computes in, `config.finetune.dtype`, in sampling and tuning.
  Without `read`, weights of other nets are drawn, too: where shapes are enough.
  """
  nets = teacher.declare(backbone, config.finetune)
  nets = {"": nets} if isinstance(nets, Module) else dict(nets)
  first = nets[""]
  assert isinstance(first, Module), "the first net has parameters"
  if config.finetune.remat:
    nets[""] = remat(first, r"(resnets|attentions)\.\d+$")
  spec, apply = functional_nets(nets)
  folders = {}
  if teacher.weights is not None:
    folders = dict(teacher.weights(backbone, config.finetune))
  own = {} if "" in folders else backbone.params
  known = {}
  if read:
    for net, folder in folders.items():
      known |= read_net(spec, net, folder)
  rest = without(without(spec, own), known)
  new = init(rest, jax.random.key(config.seed)) | known
  trainable, frozen = split(own | new, teacher.trainable)
  return apply, trainable, cast(frozen, config.finetune.dtype)


def read_net(
  spec: Mapping[str, Param], net: str, folder: str
) -> dict[str, Array]:
  """The published weights of a net, beside the backbone's or in its place.

  Raises:
    ValueError: there is no such folder, or its weights do not fit.
  """
  place = find_model(folder)
  family = FAMILIES[kind_of(read_config(place))]
  read = load(of_net(spec, net), place, renames=family.renames)
  return {prefix(net) + name: x for name, x in read.items()}


def tuning_loss(
  apply: Apply,
  backbone: Backbone,
  params: Params,
  batch: Mapping[str, Any],
  key: Array,
  config,
) -> Array:
  """Mean squared error of the net's own prediction (SuTI, eqs. 3 and 5).

  The paper states it for x_0, with weight 1 (`config.weighting="uniform"` and a
  base that predicts x_0; of one that predicts eps, "uniform" weighs eps). Texts
  are not dropped: the paper does not mention it.
  """
  return denoising_loss(
    backbone.schedule,
    lambda x_BHWC, t_B: apply_denoiser(
      apply, params, x_BHWC, t_B, batch["conditioning"]
    ),
    batch["x_BHWC"],
    key,
    weighting=config.weighting,
    gamma=config.snr_gamma,
    log_snr=normal_steps(config),
    stratified=True,
  ).mean()


def guided_sample(
  apply: Apply,
  backbone: Backbone,
  params: Params,
  request: Mapping[str, Any],
  keys_B: Array,
  config,
) -> Array:
  """Samples with classifier-free guidance and dynamic thresholding.

  The paper: DDPM, weight 30 (section 3.3). Without Imagen's dynamic threshold
  a weight like this saturates; its steps and percentile are not public. DDPM's
  variance is that of the posterior, for IF too: the loss does not train the
  variance that IF predicts, and tuned layers may have changed it.
  """
  null = jax.tree.map(
    lambda row, x: jnp.broadcast_to(row, x.shape),
    request["null"],
    request["conditioning"],
  )
  sampler = samplers.SAMPLERS[config.sampler]
  return sampler(
    guided(
      functools.partial(apply_denoiser, apply, params),
      request["conditioning"],
      null,
      combine=lambda with_text, without: classifier_free(
        with_text, without, config.guidance
      ),
    ),
    backbone.schedule,
    samplers.draw_noise(keys_B, backbone.latent_shape),
    keys_B,
    num_steps=config.num_steps,
    **backbone.limits(config.percentile),
  )
