# SPDX-License-Identifier: Apache-2.0
"""An adapter that is trained is the published one: names, arrays, results.

That published files do what their publisher's code does is
tests/pipeline/test_ip_adapter.py's.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

from configs.apprentice.ip_adapter_world import get_config
from suti.hf.image_processor import pixel_reader_of
from suti.hf.model import open_model
from suti.hf.weights import save
from suti.models.ip_adapter_shapes import shapes_for
from suti.models.unet import declare_unet
from suti.nn.nets import functional_nets, of_net
from suti.nn.param import functional, init
from suti.pipeline import image_prompt
from suti.pipeline.ip_adapter import open_ip_adapter
from tests import tiny
from tests.goldens import unets
from tests.goldens.families import ip_adapter as family
from tests.hf.test_image_processor import picture

PICTURES = [picture(20, 31), picture(16, 16)]
UNET = declare_unet(tiny.ONE_LEVEL_UNET)


def section(encoder, kind, **fields) -> ConfigDict:
  config = get_config().unlock().method
  config.update(
    encoder=str(encoder), kind=kind, num_tokens=2, width=8, depth=1, num_heads=1
  )
  config.update(fields)
  return config


def declared(config):
  """Spec and apply of all nets, and arrays as they are drawn."""
  unet, nets = image_prompt.declare(UNET, config)
  spec, apply = functional_nets({"": unet, **nets})
  return spec, apply, init(spec, jax.random.key(0))


@pytest.mark.parametrize("name", family.PUBLISHED)
def test_names_and_shapes_are_those_of_the_published_files(name):
  config = family.PUBLISHED[name]
  model = "v1-5" if "sd15" in name else "xl-base-1.0"
  (base,) = [x for n, x in unets.PUBLISHED.items() if n.endswith(model)]
  found = shapes_for(
    declare_unet(base),
    kind=config["kind"],
    d_image=config["image"],
    num_tokens=config.get("tokens", 0),
    width=config.get("dim", 0),
    depth=config.get("depth", 0),
    num_heads=config.get("heads", 0),
  )
  assert found == family.shapes(config)


@pytest.mark.parametrize("kind", image_prompt.KINDS)
def test_what_is_trained_here_is_read_as_a_published_file(
  kind, tiny_clip, tmp_path
):
  """The same keys and values, with pictures and without."""
  encoder = tiny.write_encoder(
    tmp_path / "image_encoder",
    tiny.VISION
    | {
      "architectures": ["CLIPVisionModelWithProjection"],
      "model_type": "clip_vision_model",
      "projection_dim": 10,
    },
  )
  config = section(encoder, kind)
  spec, apply, params = declared(config)
  params |= image_prompt.start(config, params)
  file = tmp_path / "ours.safetensors"
  names = of_net(spec, image_prompt.ADAPTER)
  save(of_net(params, image_prompt.ADAPTER), names, file)
  _, encode_pictures = open_ip_adapter(file, image_encoder=encoder, unet=UNET)
  clip = open_model(encoder)
  x_KHWC = pixel_reader_of(encoder, clip.config)(PICTURES)
  see = image_prompt.output_of(kind)
  images_KX = see(clip.apply, clip.params, x_KHWC)
  shown = jnp.asarray([[True, True], [False, False]])
  run = jax.jit(
    lambda shown: image_prompt.make_prompt(
      apply, params, jnp.stack([images_KX] * 2), shown
    )
  )
  ours = run(shown)
  with_pictures, without = encode_pictures([PICTURES])
  length = with_pictures.keys_values[0][0].shape[1]
  np.testing.assert_array_equal(
    ours.mask_BL, [[True] * length, [i < length // 2 for i in range(length)]]
  )
  for found, one, none in zip(
    ours.keys_values, with_pictures.keys_values, without.keys_values,
    strict=True,
  ):  # fmt: skip
    for x_BLD, one_BLD, none_BLD in zip(found, one, none, strict=True):
      np.testing.assert_allclose(x_BLD[0], one_BLD[0], atol=1e-5)
      first = none_BLD[0, : length // 2]
      np.testing.assert_allclose(x_BLD[1, : length // 2], first, atol=1e-5)
  # One picture of two is that picture.
  half = run(jnp.asarray([[True, False]] * 2))
  np.testing.assert_array_equal(half.mask_BL.sum(1), [length // 2] * 2)
  # And the other way round: a file is what training starts from.
  again = image_prompt.start(section(encoder, kind, adapter=str(file)), params)
  for name in names:
    np.testing.assert_array_equal(
      again[f"adapter:{name}"], params[f"adapter:{name}"]
    )


def test_it_starts_with_the_texts_keys_and_values(tiny_clip):
  config = section(tiny_clip, "base")
  spec, _, params = declared(config)
  started = image_prompt.start(config, params)
  texts = [n for n in params if n.endswith("attn2.to_k.weight")]
  assert len(started) == 2 * len(texts) > 4
  # Down, up, middle.
  for i, block in enumerate(("down_blocks.0", "up_blocks.0", "mid_block")):
    (first, *_) = [n for n in texts if n.startswith(block)]
    index = (0, 1, len(texts) - 1)[i]
    np.testing.assert_array_equal(
      started[f"adapter:ip_adapter.{1 + 2 * index}.to_k_ip.weight"],
      params[first],
    )
  assert started.keys() <= spec.keys()


def test_two_empty_pictures(tmp_path):
  """Of states: 0 after CLIP's normalisation, or mid-grey before it."""
  mean, std = np.asarray([0.2, 0.3, 0.4]), np.asarray([0.5, 0.25, 0.3])
  folder = tiny.write_clip(
    tmp_path / "clip",
    pixels=tiny.PREPROCESSING | {"image_mean": [*mean], "image_std": [*std]},
  )
  clip = open_model(folder)
  read = pixel_reader_of(folder, clip.config)
  _, _, params = declared(section(folder, "plus"))
  for null, value in (("mean", 0.0), ("grey", (0.5 - mean) / std)):
    config = section(folder, "plus", null=null)
    found = image_prompt.start(config, params)["null:features"]
    x_BHWC = np.zeros_like(read([PICTURES[0]])) + np.float32(value)
    expected = image_prompt.states(clip.apply, clip.params, x_BHWC)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    (
      {"kind": "face"},
      "config.method.kind='face': expected one of base, plus, full; "
      "configs/apprentice/ip_adapter_world.py says which is which.",
    ),
    (
      {"num_tokens": 0},
      "config.method.num_tokens=0: expected an integer of at least 1; "
      "configs/apprentice/ip_adapter_world.py has one that is good.",
    ),
  ],
)
def test_a_wrong_section_is_one_line(fields, message):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    image_prompt.check_section(
      section("world_clip", **({"kind": "base"} | fields)),
      example="configs/apprentice/ip_adapter_world.py",
    )


def test_a_missing_field_is_named():
  config = section("world_clip", "base")
  del config["null"]
  with pytest.raises(ValueError) as caught:
    image_prompt.check_section(config, example="configs/x.py")
  assert str(caught.value) == (
    "config.method.null is missing: copy it from configs/x.py."
  )


def test_another_adapter_is_one_line(tiny_clip, tmp_path):
  config = section(tiny_clip, "base")
  spec, _, params = declared(config)
  file = tmp_path / "other.safetensors"
  save(of_net(params, "adapter"), of_net(spec, "adapter"), file)
  wider = section(tiny_clip, "base", num_tokens=3, adapter=str(file))
  with pytest.raises(ValueError) as caught:
    image_prompt.start(wider, declared(wider)[2])
  assert str(caught.value) == (
    f"config.method.adapter={file} is another adapter than config.method "
    "declares: 2 of its arrays differ, e.g. image_proj.proj.bias, (32,) there "
    "and (48,) here; set config.method.kind, num_tokens, width, depth, "
    "num_heads and encoder as it has them."
  )
  missing = section(tiny_clip, "base", adapter="nowhere.safetensors")
  with pytest.raises(ValueError) as caught:
    image_prompt.start(missing, params)
  assert str(caught.value) == (
    "config.method.adapter=nowhere.safetensors: there is no such file or "
    "folder; give a published .safetensors file, an apprentice with an "
    "adapter, or ''."
  )
  strange = tmp_path / "strange.safetensors"
  safetensors.numpy.save_file({"a": np.zeros(2, np.float32)}, strange)
  with pytest.raises(
    ValueError, match=r"^config\.method\.adapter=.*: This is no"
  ):
    image_prompt.start(section(tiny_clip, "base", adapter=str(strange)), params)


def test_a_net_without_cross_attentions_is_one_line():
  unet = declare_unet(unets.PUBLISHED["IF-I-XL-v1.0"])
  with pytest.raises(ValueError, match="attn2, and this one has none, as"):
    shapes_for(
      unet, kind="base", d_image=8, num_tokens=4, width=8, depth=1, num_heads=1
    )


def test_shapes_are_declared_by_their_own_names(tiny_clip):
  spec, _, _ = declared(section(tiny_clip, "plus"))
  base, _ = functional(UNET)
  new = set(spec) - set(base)
  assert {name.split(":")[0] for name in new} == {"adapter", "null"}
