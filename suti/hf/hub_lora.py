# SPDX-License-Identifier: Apache-2.0
"""A LoRA's name on the Hugging Face hub -> its file on this machine.

  ORG/NAME                         the only LoRA of a repository
  ORG/NAME@REVISION
  ORG/NAME/FOLDER/FILE.safetensors one of several
  ORG/NAME@REVISION/FILE.safetensors

Nothing else of the repository is fetched. What the file holds is
`suti.hf.lora`'s business.
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from suti.hf.hub import UnreachableError, explained, snapshot

# As diffusers and PEFT name them: of several files these are the LoRA.
_NAMED = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_CONFIG = "adapter_config.json"
_NAME = re.compile(
  r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)"
  # A revision with slashes is one of the hub's own, such as refs/pr/3.
  r"(@(?P<revision>refs/[\w-]+/[\w.-]+|[\w.-]+))?"
  r"(/(?P<file>[^@:\\]+\.safetensors))?"
)


class HubLora(NamedTuple):
  """Where a LoRA is on the hub.

  Attributes:
    repo: `ORG/NAME`, with `@REVISION` if it is one.
    file: in it; "" where the repository has but one.
  """

  repo: str
  file: str


def read_name(text: str) -> HubLora | None:
  """Reads `ORG/NAME[@REVISION][/FILE.safetensors]`; None for other texts.

  What could be a file here is none of the hub's: a path with a dot or a slash
  before it, or into a folder that there is.
  """
  match = _NAME.fullmatch(text)
  if match is None or ".." in text.split("/"):
    return None
  if match["file"] is None and text.endswith(".safetensors"):
    return None  # FOLDER/FILE
  if match["file"] and Path(match["repo"]).is_dir():
    return None
  revision = f"@{match['revision']}" if match["revision"] else ""
  return HubLora(match["repo"] + revision, match["file"] or "")


def fetch_lora(there: HubLora) -> Path:
  """Fetches the file, and the config beside it, or finds them in the cache.

  Returns: the file.

  Raises:
    ValueError: the repository has no such file, none at all, or several; or the
      hub says no.
  """
  repo, file = there
  if not file:
    file = _choose(repo, _list(repo))
  above = file.rpartition("/")[0]
  config = f"{above}/{_CONFIG}" if above else _CONFIG
  folder = snapshot(repo, [glob.escape(file), glob.escape(config)])
  if not (folder / file).is_file():
    raise ValueError(
      f"'{repo}' has no {file} on the hub: give one of its files, or the name "
      "of the repository alone."
    )
  return folder / file


def _list(repo: str) -> list[str]:
  """The files of a repository, without a network those in the cache."""
  import huggingface_hub

  name, _, revision = repo.partition("@")
  try:
    with explained(repo):
      return huggingface_hub.HfApi().list_repo_files(
        name, revision=revision or None
      )
  except UnreachableError:
    folder = snapshot(repo, ["*.safetensors", _CONFIG])
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*")]


def _choose(repo: str, files: Sequence[str]) -> str:
  """The file that is a repository's LoRA.

  Raises:
    ValueError: there is none, or it cannot be known which.
  """
  if "model_index.json" in files:
    raise ValueError(
      f"'{repo}' is a whole model and no LoRA: give it as --model."
    )
  found = [file for file in files if file.endswith(".safetensors")]
  top = [file for file in found if "/" not in file]
  named = [file for file in _NAMED if file in top]
  chosen = named or top or found
  if len(chosen) == 1:
    return chosen[0]
  if not chosen:
    raise ValueError(
      f"'{repo}' has no .safetensors on the hub: pickles can run code when "
      "opened and are refused; look for a repository or a revision that has "
      "safetensors."
    )
  listed = ", ".join(sorted(chosen)[:5]) + (" and more" if chosen[5:] else "")
  raise ValueError(
    f"'{repo}' has {len(chosen)} .safetensors files, {listed}: say which, such "
    f"as --lora {repo}/{min(chosen)}."
  )
