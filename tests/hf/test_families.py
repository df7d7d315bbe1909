# SPDX-License-Identifier: Apache-2.0
"""Families are recognised by names and shapes, our own declarations too."""

import pytest

from suti.hf.families import FAMILIES, recognise
from suti.hf.layout import published_shape
from suti.models.clip import declare_clip, declare_clip_text
from suti.models.dino import declare_dino
from suti.models.unet import declare_unet
from suti.models.vae import declare_autoencoder
from suti.nn.param import functional

UNET = {
  "down_blocks.0.attentions.0.transformer_blocks.0.norm1.weight": (320,),
  "mid_block.resnets.0.norm1.weight": (320,),
}
TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
IF = {"encoder_hid_proj.weight": (768, 4096), "add_embedding.pool.x": (1, 1)}
CLIP_TEXT = "text_model.embeddings.token_embedding.weight"


@pytest.mark.parametrize(
  ("shapes", "name"),
  [
    (
      UNET | {TO_K: (320, 768), "conv_in.weight": (320, 9, 3, 3)},
      "a U-Net of Stable Diffusion 1, inpainting",
    ),
    (
      UNET | {TO_K: (320, 1024), "conv_in.weight": (320, 4, 3, 3)},
      "a U-Net of Stable Diffusion 2",
    ),
    (
      UNET | {TO_K: (320, 2048), "add_embedding.linear_1.weight": (4, 4)},
      "a U-Net of SDXL",
    ),
    (
      UNET | {TO_K: (320, 1280), "add_embedding.linear_1.weight": (4, 4)},
      "a U-Net of SDXL's refiner",
    ),
    (
      UNET | IF | {"conv_in.weight": (320, 3, 3, 3)},
      "a U-Net of DeepFloyd IF, stage I",
    ),
    (
      UNET | IF | {"conv_in.weight": (320, 6, 3, 3)},
      "a U-Net of DeepFloyd IF, stage II or III",
    ),
    (
      UNET | {TO_K: (320, 96), "conv_in.weight": (320, 4, 3, 3)},
      "a text-to-image U-Net",
    ),
    (
      {
        "encoder.block.0.layer.0.layer_norm.weight": (4096,),
        "shared.weight": (32128, 4096),
      },
      "a T5 encoder, XXL",
    ),
    (
      {
        "encoder.block.0.layer.0.layer_norm.weight": (512,),
        "decoder.block.0.layer.0.layer_norm.weight": (512,),
        "shared.weight": (32128, 512),
      },
      "a T5 encoder with its decoder, small",
    ),
    (
      {CLIP_TEXT: (49408, 1280), "text_projection.weight": (1280, 1280)},
      "a CLIP text encoder with projection, ViT-bigG",
    ),
    (
      {"visual.proj": (4, 4), "transformer.resblocks.0.ln_1.weight": (4,)},
      "a CLIP in OpenCLIP's own names",
    ),
    (
      {
        "embeddings.mask_token": (1, 384),
        "embeddings.cls_token": (1, 1, 384),
        "encoder.layer.0.layer_scale1.lambda1": (384,),
      },
      "a DINOv2, ViT-S",
    ),
    (
      {"blocks.0.attn.qkv.weight": (2304, 768), "cls_token": (1, 1, 768)},
      "a DINO in torch hub's names, ViT-B",
    ),
    (
      {
        "blocks.0.attn.qkv.weight": (2304, 768),
        "blocks.0.ls1.gamma": (768,),
        "cls_token": (1, 1, 768),
      },
      "a DINOv2 in torch hub's names, ViT-B",
    ),
    (
      {"unet.down_blocks.0.attentions.0.to_q.lora_A.weight": (4, 320)},
      "a LoRA",
    ),
    (
      {"lora_unet_down_blocks_0_attentions_0.lora_down.weight": (4, 320)},
      "a LoRA",
    ),
    (
      {"image_proj.proj.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)},
      "an IP-Adapter",
    ),
    (
      {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)},
      "an original checkpoint of a whole model (one file, not of diffusers)",
    ),
    ({"layers.0.weight": (3, 3)}, None),
    ({}, None),
  ],
)
def test_families_by_their_marks(shapes, name):
  assert recognise(shapes) == name


@pytest.mark.parametrize(
  ("module", "name"),
  [
    (
      declare_unet({"cross_attention_dim": 768}),
      "a U-Net of Stable Diffusion 1",
    ),
    (
      declare_unet(
        {
          "cross_attention_dim": 1024,
          "in_channels": 9,
          "use_linear_projection": True,
        }
      ),
      "a U-Net of Stable Diffusion 2, inpainting",
    ),
    (declare_autoencoder({}), "an AutoencoderKL, 4 channels"),
    (
      declare_autoencoder({"latent_channels": 16, "use_quant_conv": False}),
      "an AutoencoderKL, 16 channels",
    ),
    (declare_clip({}), "a CLIP, ViT-B"),
    (declare_clip_text({"hidden_size": 768}), "a CLIP text encoder, ViT-L"),
    (
      declare_dino({"hidden_size": 384, "num_attention_heads": 6}),
      "a DINO or another ViT, ViT-S",
    ),
  ],
)
def test_our_declarations_are_of_their_families(module, name):
  spec, _ = functional(module)
  assert recognise({n: published_shape(p) for n, p in spec.items()}) == name


def test_each_family_has_a_name_of_its_own():
  names = [family.name for family in FAMILIES]
  assert len(set(names)) == len(names)
