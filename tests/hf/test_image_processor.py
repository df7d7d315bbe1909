# SPDX-License-Identifier: Apache-2.0
"""Pixel values are those of the published processors, bit for bit."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suti.hf.image_processor import load_pixel_reader, make_pixel_reader
from suti.io.files import write_json

# transformers' processors need neither torch nor a network.
IMAGENET = {
  "image_mean": [0.485, 0.456, 0.406],
  "image_std": [0.229, 0.224, 0.225],
}
OPENAI = {
  "image_mean": [0.48145466, 0.4578275, 0.40821073],
  "image_std": [0.26862954, 0.26130258, 0.27577711],
}
CLIP = {
  "crop_size": 224,
  "do_center_crop": True,
  "do_normalize": True,
  "do_resize": True,
  "feature_extractor_type": "CLIPFeatureExtractor",
  "resample": 3,
  "size": 224,
} | OPENAI
# What is published beside real models, in the words of their time.
PUBLISHED = {
  "clip-vit-base-patch32": CLIP,
  "clip-vit-large-patch14-336": CLIP | {"crop_size": 336, "size": 336},
  "stable-diffusion-v1-5": {
    **{k: v for k, v in CLIP.items() if k != "feature_extractor_type"},
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
  },
  "IP-Adapter": {"image_processor_type": "CLIPImageProcessor"},
  "dino-vits16": {
    "do_normalize": True,
    "do_resize": True,
    "resample": 2,
    "size": 224,
  }
  | IMAGENET,
  "vit-in-transformers-4": {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_center_crop": None,
    "rescale_factor": 0.00392156862745098,
  }
  | IMAGENET,
  "dinov2-small": {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_processor_type": "BitImageProcessor",
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256},
  }
  | IMAGENET,
  # DINO's own recipe, on a processor that can follow it.
  "dino-torch-hub": {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": 224,
  }
  | IMAGENET,
}
ODD = {
  "lanczos": {"image_processor_type": "CLIPImageProcessorFast", "resample": 1},
  "no crop": {
    "image_processor_type": "CLIPImageProcessor",
    "do_center_crop": False,
    "size": {"height": 30, "width": 41},
  },
  "no resize": {
    "image_processor_type": "BitImageProcessor",
    "do_resize": False,
    "crop_size": {"height": 101, "width": 64},
  },
  "larger crop": {
    "image_processor_type": "CLIPImageProcessor",
    "size": 50,
    "crop_size": {"height": 57, "width": 98},
  },
  "no mean": {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": False,
  },
  "square": {
    "image_processor_type": "CLIPImageProcessor",
    "default_to_square": True,
    "do_center_crop": False,
    "size": 40,
  },
  "levels": {"image_processor_type": "ViTImageProcessor", "do_rescale": False},
}
# Landscape, portrait, square; smaller than the crop; sides whose scaled partner
# is not whole, on either side of a pixel.
SIZES = [
  (480, 640),
  (641, 427),
  (225, 224),
  (224, 225),
  (512, 512),
  (100, 63),
  (17, 300),
  (333, 334),
  (299, 301),
  (64, 64),
]


def picture(height, width):
  """Noise over a gradient: every filter and every rounding shows."""
  rng = np.random.RandomState(height * 1000 + width)
  ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
  noise = rng.randint(0, 256, (height, width, 3))
  return ((ramp + noise) / 2).astype(np.uint8)


def theirs(config):
  """What transformers makes of a config, with its processor on Pillow."""
  import transformers

  name = config.get("image_processor_type") or config.get(
    "feature_extractor_type", "ViT"
  )
  kind = next(kind for kind in ("CLIP", "ViT", "Bit") if name.startswith(kind))
  # Before transformers 5.4 this was the one without a suffix.
  processor = getattr(
    transformers, f"{kind}ImageProcessorPil", None
  ) or getattr(transformers, f"{kind}ImageProcessor")
  names = ("image_processor_type", "feature_extractor_type")
  return processor(**{k: v for k, v in config.items() if k not in names})


@pytest.mark.parametrize("name", [*PUBLISHED, *ODD])
def test_pixels_are_those_of_the_published_processors(name):
  config = (PUBLISHED | ODD)[name]
  read, processor = make_pixel_reader(config), theirs(config)
  for size in SIZES:
    image_u8 = picture(*size)
    expected = processor(Image.fromarray(image_u8), return_tensors="np")
    expected = expected["pixel_values"].transpose(0, 2, 3, 1)
    found = read([image_u8])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected, err_msg=f"{size}")


@pytest.mark.parametrize(
  "name", ["clip-vit-base-patch32", "dino-vits16", "dinov2-small"]
)
def test_pixels_of_dreambench(name):
  files = sorted(Path(os.environ.get("SUTI_DREAMBENCH", "")).glob("*/00.jpg"))
  if not files:
    pytest.skip("SUTI_DREAMBENCH names no folder of DreamBench's subjects")
  config = PUBLISHED[name]
  read, processor = make_pixel_reader(config), theirs(config)
  images = [Image.open(file).convert("RGB") for file in files[:6]]
  # As they are, and cut so that they are not square.
  images += [image.crop((0, 31, 500, 412)) for image in images]
  expected = processor(images, return_tensors="np")["pixel_values"]
  np.testing.assert_array_equal(
    read([np.asarray(image) for image in images]),
    expected.transpose(0, 2, 3, 1),
  )


def test_a_square_picture_is_as_dino_s_own_recipe_has_it():
  image = Image.fromarray(picture(512, 512)).resize((256, 256), 3)
  middle = np.asarray(image)[16:240, 16:240].astype(np.float32) / 255
  expected = (middle - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  found = make_pixel_reader(PUBLISHED["dino-torch-hub"])([picture(512, 512)])
  np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_a_batch_is_its_pictures_one_by_one():
  read = make_pixel_reader(CLIP)
  pictures = [picture(*size) for size in SIZES[:3]]
  found = read(pictures)
  assert found.shape == (3, 224, 224, 3)
  for image, row in zip(pictures, found, strict=True):
    np.testing.assert_array_equal(read([image])[0], row)


@pytest.mark.parametrize(
  ("size", "shape"),
  [
    ({"crop_size": {"height": 8, "width": 9}, "size": 10}, (8, 9)),
    ({"crop_size": 8, "size": {"shortest_edge": 10}}, (8, 8)),
    ({"size": {"height": 8, "width": 9}}, (8, 9)),
    ({"size": [8, 9]}, (8, 9)),
    ({"size": 8}, (8, 8)),
    ({"size": {"shortest_edge": 8}}, (8, 12)),
  ],
)
def test_published_ways_to_write_a_size(tmp_path, size, shape):
  write_json(tmp_path / "preprocessor_config.json", size)
  found = load_pixel_reader(tmp_path)([picture(20, 30)])
  assert found.shape == (1, *shape, 3)


def test_the_newer_place_of_a_config_is_read_first(tmp_path):
  """As transformers 5 writes it, nested beside what is said of texts."""
  sizes = ({"size": 8}, {"size": 9})
  write_json(tmp_path / "preprocessor_config.json", sizes[0])
  # As files of a processor were before: nothing of pictures.
  write_json(tmp_path / "processor_config.json", {"processor_class": "CLIP"})
  assert load_pixel_reader(tmp_path)([picture(20, 30)]).shape == (1, 8, 8, 3)
  nested = {"image_processor": sizes[1], "processor_class": "CLIPProcessor"}
  write_json(tmp_path / "processor_config.json", nested)
  assert load_pixel_reader(tmp_path)([picture(20, 30)]).shape == (1, 9, 9, 3)
  (tmp_path / "preprocessor_config.json").unlink()
  assert load_pixel_reader(tmp_path)([picture(20, 30)]).shape == (1, 9, 9, 3)
  nested["image_processor"] = {"resample": 9}
  write_json(tmp_path / "processor_config.json", nested)
  with pytest.raises(
    ValueError, match=r"resample=9 of image_processor in processor_config"
  ):
    load_pixel_reader(tmp_path)


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ({"do_pad": True}, "do_pad=True of .* is not supported: it must be False"),
    ({"use_square_size": True}, "use_square_size=True of pre.* must be False"),
    (
      {"image_processor_type": "BlipImageProcessor"},
      "='BlipImageProcessor' of preprocessor_config.json is not one of CLIPIm",
    ),
    (
      {"size": {"longest_edge": 3}},
      r"size=\{'longest_edge': 3\} of .* expected a number, height and width",
    ),
    ({"crop_size": "8"}, "crop_size='8' of .* is not known"),
    ({"resample": 9}, "resample=9 of .* is not one of Pillow's filters"),
    ({"size": {"shortest_edge": "8"}}, "size=.* of .* is not known: expected"),
    ({"size": 0}, "size=0 of .* is not known: expected a number, height and"),
    ({"do_resize": "no"}, "do_resize='no' of .* must be true or false: correc"),
    ({"image_processor_type": 5}, "image_processor_type=5 of .* must be a tex"),
    (
      {"image_mean": [0.5]},
      r"image_mean=\[0.5\] of .* for each of three chann",
    ),
    ({"image_std": [1, 0, 1]}, r"image_std=\[1, 0, 1\] of .* divided by 0"),
  ],
)
def test_configs_that_are_refused(config, message):
  with pytest.raises(ValueError, match=message):
    make_pixel_reader(config)


def test_a_batch_of_many_sizes_is_one_line():
  read = make_pixel_reader({"size": {"shortest_edge": 8}})
  with pytest.raises(ValueError, match="sizes of 12x8, 8x12: give pictures of"):
    read([picture(20, 30), picture(30, 20)])


def test_a_folder_without_a_config_is_one_line(tmp_path):
  with pytest.raises(
    ValueError, match=r"has no preprocessor_config\.json, nor a pro"
  ):
    load_pixel_reader(tmp_path)
