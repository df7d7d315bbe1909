# SPDX-License-Identifier: Apache-2.0
"""A model's name on the Hugging Face hub -> a folder on this machine.

Only what is read is fetched: configs, tokenizers and safetensors of the parts
that `model_index.json` names, without the variants that lie beside them. The
hub's own cache keeps them. What a folder holds is `suti.backbone`'s matter.
"""

import re
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
# A file's variant stands between its name and its ending.
_VARIANTS = ("*.fp16.*", "*.bf16.*", "*.non_ema.*", "*.msgpack", "*.onnx*")
_TEXTS = ("*.json", "*.txt", "*.model")


def find_or_fetch(name_or_dir: str | Path) -> Path:
  """The folder of a model that lies here or on the hub.

  Args:
    name_or_dir: a folder, a shipped model's name, or `ORG/NAME[@REVISION]`.

  Returns: a folder on this machine.

  Raises:
    ValueError: none of these, or the hub cannot be reached or has no such
      repository.
  """
  from suti.backbone import find_model

  name = str(name_or_dir)
  if Path(name).is_dir() or not _ID.fullmatch(name):
    return find_model(name)
  return fetch(name)


def fetch(name: str) -> Path:
  """Fetches a repository's readable files, or finds them in the hub's cache.

  Args:
    name: `ORG/NAME`, or `ORG/NAME@REVISION`.

  Raises:
    ValueError: see `find_or_fetch`; safetensors are missing from it.
  """
  # Imported here: no other command needs it.
  import huggingface_hub
  from huggingface_hub import errors

  repo, _, revision = name.partition("@")
  where = {"repo_id": repo, "revision": revision or None}

  def snapshot(patterns):
    return Path(
      huggingface_hub.snapshot_download(
        **where, allow_patterns=patterns, ignore_patterns=list(_VARIANTS)
      )
    )

  try:
    folder = snapshot(["config.json", "model_index.json"])
    parts = _parts(folder)
    patterns = [f"{part}{end}" for part in parts for end in _TEXTS]
    patterns += [f"{part}*.safetensors" for part in parts]
    folder = snapshot([*patterns, "model_index.json"])
  except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
    raise ValueError(
      f"The hub has no public repository '{name}': check its name (and "
      "HF_TOKEN, if it is not public), or give a folder."
    ) from None
  except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as e:
    reason = " ".join(str(e).split())[:120] or type(e).__name__
    raise ValueError(
      f"'{name}' is no folder here, and the hub cannot be reached ({reason}): "
      "give a folder, or try again with a network."
    ) from None
  if not any(folder.rglob("*.safetensors")):
    raise ValueError(
      f"'{name}' has no .safetensors on the hub: pickles can run code when "
      "opened and are refused; look for a repository that has safetensors."
    )
  return folder


def _parts(folder: Path) -> list[str]:
  """Prefixes of the paths that belong to the model."""
  from suti.io.files import read_json

  index = folder / "model_index.json"
  if not index.is_file():
    return [""]
  return [
    f"{name}/"
    for name, value in read_json(index).items()
    if isinstance(value, list)
    and value[:1] != [None]
    # Judges and watermarks of the published pipelines: not part of the model.
    and name not in ("safety_checker", "watermarker", "feature_extractor")
  ]
