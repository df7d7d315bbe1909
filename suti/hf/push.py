# SPDX-License-Identifier: Apache-2.0
"""A run's model, or its training data, to a repository on the hub.

  model    RUN/apprentice/train/model, with a README.md of `suti.hf.cards`
  dataset  RUN/experts/pack, likewise

Everything is put together in a folder first, so that what is published can be
looked at before. The client of the hub finds the user's token itself.
"""

import re
import shutil
from pathlib import Path

from suti.hf.cards import dataset_card, model_card
from suti.io.files import check_new_folder, replacing_folder, write_atomic
from suti.io.paths import in_bucket, local

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# What a dataset's readers need; the run's own records stay with the run.
_OWN = ("stage.json", "done.json")


def assemble(
  run: Path, repo: str, *, kind: str, folder: Path, anew: bool = False
) -> Path:
  """Writes the folder that is published.

  Args:
    run: the workdir of a run, on a disk or in a bucket.
    repo: ORG/NAME.
    kind: "model" or "dataset".
    folder: a new one, outside of the run.
    anew: whether one that is there may be replaced.

  Returns: the folder.

  Raises:
    ValueError: a malformed name, a run without a model or data, a folder that
      is not new, or a link in the model that leads out of it.
  """
  if not _REPO.fullmatch(repo):
    raise ValueError(
      f"'{repo}' is no name of a repository: expected ORG/NAME, in letters, "
      "digits, '-', '_' and '.'."
    )
  source = run / (
    "apprentice/train/model" if kind == "model" else "experts/pack"
  )
  make = model_card if kind == "model" else dataset_card
  card = make(run, repo=repo)
  if not source.is_dir():
    raise ValueError(f"{source} is not there: run the stage that writes it.")
  source = local(source)
  if not (anew and (folder / "README.md").is_file()):
    check_new_folder(folder, outside=source if in_bucket(run) else run)
  with replacing_folder(folder, last="README.md") as part:
    for file in sorted(source.rglob("*")):
      if file.is_symlink():
        raise ValueError(
          f"{file} is a link: put what it leads to there, or remove it."
        )
      if file.is_file() and file.name not in _OWN:
        target = part / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    write_atomic(part / "README.md", card.encode())
  return folder


def upload(folder: Path, repo: str, *, kind: str, private: bool) -> str:
  """Uploads a folder.

  Args:
    folder: of `assemble`.
    repo: ORG/NAME, made if there is none.
    kind: "model" or "dataset".
    private: whether a new repository is.

  Returns: its address.

  Raises:
    ValueError: there is no token, it may not write there, or the hub cannot be
      reached.
  """
  # Imported here: it takes a second.
  import huggingface_hub
  from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
  )

  api = huggingface_hub.HfApi()
  try:
    made = api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
    api.upload_folder(
      repo_id=repo,
      repo_type=kind,
      folder_path=folder,
      commit_message="Published by suti push",
    )
  except LocalTokenNotFoundError as error:
    raise ValueError(
      "there is no token of the Hugging Face hub: run `hf auth login` first."
    ) from error
  except OfflineModeIsEnabled as error:
    raise ValueError("HF_HUB_OFFLINE is set: unset it to publish.") from error
  except HfHubHTTPError as error:
    code = getattr(getattr(error, "response", None), "status_code", None)
    what = {
      401: "the hub does not know your token: run `hf auth login`",
      403: f"your token may not write to {repo}: give one that may",
      404: f"there is no organisation of {repo}, or it is not yours",
    }.get(code or 0, f"the hub answered HTTP {code}: try again later")
    raise ValueError(f"{repo} was not published: {what}.") from error
  # Its clients raise errors of their own for all that can fail in a network.
  except Exception as error:
    raise ValueError(
      f"{repo} was not published: the hub cannot be reached "
      f"({type(error).__name__}). {folder} is kept."
    ) from error
  return str(made)
