# SPDX-License-Identifier: Apache-2.0
"""`suti rate`: people rate pictures in a browser, blind."""

import time
import webbrowser
from collections.abc import Sequence

from suti.cli.parser import Parser, check_file, place_of

_DESCRIPTION = """\
Opens a page in the browser of this machine on which people rate the pictures of
one or several evaluations: the subject, the text, photorealism, yes or no each;
or with --pairwise which of two is better. Raters do not see which system a
picture is of, each has another order, and goes on where they stopped.
"""
_EXAMPLES = """\
examples:
  suti rate scores/ --out ratings.jsonl
  suti rate ours/ theirs/ --pairwise --out ratings.jsonl
  suti report ours/ theirs/ --ratings ratings.jsonl --out page/
"""


def rate(argv: Sequence[str]) -> None:
  """Serves the page until Ctrl-C.

  Raises:
    ValueError: a folder without scores, or a file that is none of ratings.
  """
  parser = Parser(prog="suti rate", description=_DESCRIPTION, epilog=_EXAMPLES)
  add = parser.add_argument
  add(
    "scores",
    nargs="+",
    metavar="SCORES",
    help="folders that suti evaluate wrote (--out)",
  )
  add(
    "--out",
    required=True,
    metavar="FILE.jsonl",
    help="the answers; one that is there is added to",
  )
  add("--pairwise", action="store_true", help="two pictures side by side")
  add("--port", type=int, default=8090, metavar="N", help="(default: 8090)")
  add("--seed", type=int, default=0, metavar="N", help="of the order")
  add("--no-browser", action="store_true", help="print the address alone")
  args = parser.parse_args(list(argv))
  if not 0 <= args.port <= 65535:
    raise ValueError(f"--port={args.port} must be between 0 and 65535.")
  out = check_file(args.out, flag="--out")
  from suti.evaluation.rating.server import Room, serve
  from suti.evaluation.rating.tasks import read_tasks

  folders = [place_of(name) for name in args.scores]
  tasks = read_tasks(folders, pairwise=args.pairwise)
  room = Room(tasks, out, seed=args.seed)
  with serve(room, port=args.port) as address:
    print(
      f"{len(tasks)} {'pairs' if args.pairwise else 'pictures'} to rate at "
      f"{address}; answers go to {out}. Ctrl-C ends it.",
      flush=True,
    )
    if so_far := room.describe():
      print(so_far, flush=True)
    if not args.no_browser:
      webbrowser.open(address)
    while True:
      time.sleep(3600)
