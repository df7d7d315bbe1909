# SPDX-License-Identifier: Apache-2.0
"""A model's name on the Hugging Face hub -> a folder on this machine.

Only what is read is fetched: configs, tokenizers and safetensors of the parts
that `model_index.json` names, of the plain variant where there is one. The
hub's own cache keeps them, and serves them without a network. What a folder
holds is `suti.pipeline.backbone`'s matter.
"""

import contextlib
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from suti.hf.model_index import ASIDE, named_parts, read_index
from suti.io.files import is_disk_full

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_PART = re.compile(r"[\w-]+")
_TEXTS = ("*.json", "*.txt", "*.model")
_CARDS = ("README.md", "LICENSE*")
# Under the names that the publishers' libraries give: others are copies for
# other programs.
_WEIGHTS = ("model*.safetensors", "diffusion_pytorch_model*.safetensors")
# A variant stands between two dots of a file's name.
_VARIANTS = (
  "*.*.safetensors",
  "*.*.safetensors.index.json",
  "*.safetensors.index.*.json",
)


class UnreachableError(ValueError):
  """The hub did not answer; what was fetched before may still be here."""


def find_or_fetch(
  name_or_dir: str | Path, *, without: Collection[str] = ()
) -> Path:
  """The folder of a model that lies here or on the hub.

  Args:
    name_or_dir: a folder, a shipped model's name, or `ORG/NAME[@REVISION]`.
    without: parts that need not be fetched.

  Returns: a folder on this machine.

  Raises:
    ValueError: none of these, or the hub cannot be reached or has no such
      repository.
  """
  from suti.hf.find import find_model

  name = str(name_or_dir)
  if Path(name).exists() or not _ID.fullmatch(name):
    return find_model(name)
  return fetch(name, without=without)


def fetch(name: str, *, without: Collection[str] = ()) -> Path:
  """Fetches a repository's readable files, or finds them in the hub's cache.

  Args:
    name: `ORG/NAME`, or `ORG/NAME@REVISION`.
    without: parts that are left out.

  Raises:
    ValueError: see `find_or_fetch`; it is of several parts and none is a
      U-Net, or safetensors are missing from it.
  """
  folder = snapshot(name, ["config.json", "model_index.json"])
  index = read_index(folder)
  named = [n for n in named_parts(index) if _PART.fullmatch(n)]
  if named and "unet" not in named:  # refused before gigabytes are fetched
    raise ValueError(
      f"'{name}' is a {index.get('_class_name')} of {', '.join(named)}: give a "
      "model that has a unet, as Stable Diffusion 1, 2 and XL and DeepFloyd IF "
      "have."
    )
  gone = {*ASIDE, *without}
  parts = [f"{part}/" for part in named if part not in gone] or [""]
  # A model of one part has its files at the top, and nothing else there.
  others = [] if named else ["*/*"]
  patterns = [
    "model_index.json",
    *_CARDS,
    *(part + end for part in parts for end in (*_TEXTS, *_WEIGHTS)),
  ]
  folder = snapshot(name, patterns, without=[*_VARIANTS, *others])
  if lacking := _without_weights(folder, parts):
    # There may be variants alone, or other names.
    more = [f"{part}*.safetensors*" for part in lacking]
    folder = snapshot(name, more, without=others)
  if lacking := _without_weights(folder, parts):
    raise ValueError(
      f"'{name}' has no .safetensors"
      + (f" of its {lacking[0]}" if lacking[0] else "")
      + " on the hub: pickles can run code when opened and are refused; look "
      "for a repository or a revision that has safetensors."
    )
  return folder


def _without_weights(folder: Path, parts: Sequence[str]) -> list[str]:
  """The models among some parts of which no weights are there."""
  return [
    part
    for part in parts
    if (folder / part / "config.json").is_file() or not part
    if not any((folder / part).glob("*.safetensors"))
  ]


def snapshot(
  name: str, patterns: Sequence[str], *, without: Sequence[str] = ()
) -> Path:
  """Fetches the files of some patterns; the folder has those of before, too."""
  # Imported here: no other command needs it.
  import huggingface_hub

  repo, _, revision = name.partition("@")
  with explained(name):
    folder = huggingface_hub.snapshot_download(
      repo,
      revision=revision or None,
      allow_patterns=list(patterns),
      ignore_patterns=list(without),
    )
  return Path(folder)


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
  """Says in one line why the hub did not answer, or refused.

  Args:
    name: `ORG/NAME`, or `ORG/NAME@REVISION`, that it is asked for.

  Raises:
    UnreachableError: there is no network, or its clients say what else.
    ValueError: there is no such repository, or it is not for everybody.
  """
  from huggingface_hub import errors

  repo, _, revision = name.partition("@")
  try:
    yield
  except errors.GatedRepoError:
    raise ValueError(
      f"'{name}' is open only to those who accept its terms: do so at "
      f"https://huggingface.co/{repo}, then log in with `hf auth login` or set "
      "HF_TOKEN."
    ) from None
  except errors.RevisionNotFoundError:
    raise ValueError(
      f"'{repo}' has no revision '{revision or 'main'}' on the hub: give one "
      "of its branches, tags or commits."
    ) from None
  except (errors.RepositoryNotFoundError, errors.HFValidationError):
    raise ValueError(
      f"The hub has no public repository '{repo}', and there is no such folder "
      "here: check the name, or log in if it is private."
    ) from None
  # Its clients raise errors of their own for all that can fail in a network.
  except Exception as error:
    if is_disk_full(error):
      raise
    # Its texts go on with advice in later lines.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UnreachableError(
      f"'{name}' is no folder here, and cannot be fetched from the hub "
      f"({reason[:160]}): give a folder, or try again with a network."
    ) from error
