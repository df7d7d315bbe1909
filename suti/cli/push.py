# SPDX-License-Identifier: Apache-2.0
"""`suti push`: a run's model or data to the Hugging Face hub, with a card."""

from collections.abc import Sequence

from suti.cli.parser import Parser, check_here
from suti.io.paths import in_bucket, path_of

_DESCRIPTION = """\
Publishes a run's apprentice on the Hugging Face hub, with a card that says how
it was made, what it scores and what it is for; or with --dataset the examples
that its experts made, with the filter's keep rates.
"""
_EXAMPLES = """\
examples:
  suti push runs/quickstart me/my-apprentice --folder published/ --dry-run
  suti push runs/quickstart me/my-apprentice
  suti push runs/quickstart me/my-examples --dataset --private
"""


def push(argv: Sequence[str]) -> None:
  """Puts the folder together, and uploads it.

  Raises:
    ValueError: a run without a model, or a hub that refuses.
  """
  parser = Parser(prog="suti push", description=_DESCRIPTION, epilog=_EXAMPLES)
  add = parser.add_argument
  add("run", metavar="RUN", help="a workdir")
  add("repo", metavar="ORG/NAME", help="the repository")
  add("--dataset", action="store_true", help="the experts' examples instead")
  add("--private", action="store_true", help="a new repository is private")
  add(
    "--folder",
    metavar="DIR",
    help="where it is put together (default: RUN-published beside the run)",
  )
  add("--dry-run", action="store_true", help="do not upload")
  args = parser.parse_args(list(argv))
  from suti.hf.push import assemble, upload

  run = path_of(args.run)
  if in_bucket(run) and not args.folder:
    raise ValueError(
      f"{run} is in a bucket: give --folder, a new one on this machine, where "
      "it is put together."
    )
  kind = "dataset" if args.dataset else "model"
  name = args.folder or f"{str(run).rstrip('/')}-published-{kind}"
  folder = check_here(name, flag="--folder")
  # Its own folder may be there from a time when the hub did not answer.
  assemble(run, args.repo, kind=kind, folder=folder, anew=args.folder is None)
  if args.dry_run:
    print(f"Wrote {folder}; nothing was uploaded. Look at its README.md.")
    return
  print(f"Uploading {folder} ...", flush=True)
  address = upload(folder, args.repo, kind=kind, private=args.private)
  print(f"Published at {address}.")
