# SPDX-License-Identifier: Apache-2.0
"""What model_index.json says, and what it is made to say."""

import pytest

from suti.hf.model_index import (
  complete_index,
  named_parts,
  read_index,
  without_parts,
)
from suti.io.files import write_json
from suti.pipeline.text_to_image import null_is_zeros

INDEX = {
  "_class_name": "StableDiffusionPipeline",
  "requires_safety_checker": True,
  "unet": ["diffusers", "UNet2DConditionModel"],
  "vae": ["diffusers", "AutoencoderKL"],
  "safety_checker": [None, None],
  "odd": [],
}
NETS = {"unet": "UNet2DConditionModel"}
LATENT = NETS | {"vae": "AutoencoderKL"}
CLIP, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"


def test_parts_that_are_there():
  assert named_parts(INDEX) == ["unet", "vae"]
  assert without_parts(INDEX, {"unet"}) == INDEX | {"vae": [None, None]}


def test_what_is_no_index(tmp_path):
  assert read_index(tmp_path) == {}
  for index, text in (
    ({"patch_size": 0}, "patch_size=0 of .* must be a whole number from 1"),
    ({"_class_name": ["x"]}, "_class_name=.* must be a text"),
    ({"force_zeros_for_empty_prompt": "yes"}, "must be true or false"),
    ([INDEX], "holds no JSON object"),
  ):
    write_json(tmp_path / "model_index.json", index)
    with pytest.raises(ValueError, match=text):
      read_index(tmp_path)


@pytest.mark.parametrize(
  ("kinds", "pipeline"),
  [
    (LATENT | {"text_encoder": CLIP}, "StableDiffusionPipeline"),
    (
      LATENT | {"text_encoder": CLIP, "text_encoder_2": PROJECTED},
      "StableDiffusionXLPipeline",
    ),
    (NETS | {"text_encoder": "T5EncoderModel"}, "IFPipeline"),
    # Nobody published these.
    (NETS | {"text_encoder": CLIP}, "Ours"),
    (LATENT | {"text_encoder": "T5EncoderModel"}, "Ours"),
    (LATENT, "Ours"),
  ],
)
def test_who_draws_is_told_from_the_models(tmp_path, kinds, pipeline):
  index = complete_index(tmp_path, {"_class_name": "Ours"}, kinds)
  assert index["_class_name"] == pipeline
  assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
  for name in set(kinds) - {"unet", "vae"}:
    assert index[name] == ["transformers", kinds[name]]


def test_texts_are_named_by_what_they_say_themselves(tmp_path):
  write_json(
    tmp_path / "scheduler" / "scheduler_config.json",
    {"_class_name": "DDPMScheduler"},
  )
  write_json(
    tmp_path / "image_noising_scheduler" / "scheduler_config.json",
    {"_class_name": "DDIMScheduler"},
  )
  (tmp_path / "tokenizer").mkdir()
  kinds = NETS | {"text_encoder": "T5EncoderModel"}
  index = complete_index(tmp_path, {}, kinds)
  assert index["_class_name"] == "IFSuperResolutionPipeline"
  assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
  assert index["image_noising_scheduler"] == ["diffusers", "DDIMScheduler"]
  assert index["tokenizer"] == ["transformers", "T5Tokenizer"]
  config = tmp_path / "tokenizer" / "tokenizer_config.json"
  for said, named in (
    ("T5TokenizerFast", "T5TokenizerFast"),
    ("TokenizersBackend", "PreTrainedTokenizerFast"),
  ):
    write_json(config, {"tokenizer_class": said})
    index = complete_index(tmp_path, {}, kinds)
    assert index["tokenizer"] == ["transformers", named]


@pytest.mark.parametrize(
  ("kind", "said", "zeros"),
  [
    (None, None, False),
    ("text_time", None, True),  # as SDXL's pipeline takes it
    ("text_time", False, False),
    (None, True, True),
  ],
)
def test_the_null_text_is_what_the_index_says(tmp_path, kind, said, zeros):
  write_json(tmp_path / "unet/config.json", {"addition_embed_type": kind})
  if said is not None:
    index = {"force_zeros_for_empty_prompt": said}
    write_json(tmp_path / "model_index.json", index)
  assert null_is_zeros(tmp_path) is zeros
