# SPDX-License-Identifier: Apache-2.0
"""`suti report`: several evaluations side by side on one page."""

from collections.abc import Sequence

from suti.cli.parser import Parser, place_of

_DESCRIPTION = """\
Writes a static page of one or several evaluations (suti evaluate --out): scores
with intervals, differences to the first, tables, pictures, warnings, and what
people said in suti rate. It opens without a network.
"""
_EXAMPLES = """\
examples:
  suti report scores/ --out page/
  suti report ours/ theirs/ --ratings ratings.jsonl --out page/
"""


def report(argv: Sequence[str]) -> None:
  """Writes the page.

  Raises:
    ValueError: a folder without scores, or ratings that cannot be read.
  """
  parser = Parser(
    prog="suti report", description=_DESCRIPTION, epilog=_EXAMPLES
  )
  add = parser.add_argument
  add("scores", nargs="+", metavar="SCORES", help="folders of suti evaluate")
  add("--out", required=True, metavar="DIR", help="where the page goes")
  add("--ratings", metavar="FILE", help="of suti rate")
  add("--title", default="Side by side", metavar="TEXT", help="of the page")
  args = parser.parse_args(list(argv))
  from suti.evaluation.benchmark.comparison import write_page

  ratings = None
  folders = [place_of(name) for name in args.scores]
  if args.ratings:
    from suti.evaluation.rating.agreement import summarise
    from suti.evaluation.rating.tasks import read_ratings

    path = place_of(args.ratings, flag="--ratings")
    ratings = summarise(read_ratings(path))
  out = place_of(args.out, flag="--out")
  write_page(folders, out, ratings=ratings, title=args.title)
  print(f"Wrote {out / 'index.html'}.")
