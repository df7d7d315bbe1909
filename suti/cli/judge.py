# SPDX-License-Identifier: Apache-2.0
"""`suti judge`: a language model judges the pictures of an evaluation."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from suti.cli.parser import Parser, place_of

_SEED, _TIMEOUT_S = 0, 120.0
_DESCRIPTION = """\
Asks a language model that sees about each picture of an evaluation, at any
address that speaks OpenAI's chat, a local one or a paid one, on DreamBench++'s
or VIEScore's scale. Says first what it will take. Every answer is kept whole
and can be scored again without asking; one that cannot be read is missing. The
key, if one is needed, is read from OPENAI_API_KEY.
"""
_EXAMPLES = """\
examples:
  suti judge scores/ --model qwen2.5-vl --address http://localhost:8000/v1
  suti judge scores/ --model gpt-4o --address https://api.openai.com/v1 \\
    --price-in 2.5 --price-out 10 --estimate
  suti judge scores/ --model qwen2.5-vl                  # scores them anew
  suti judge scores/ --scale world               # SubjectWorld's own judge
"""


def judge(argv: Sequence[str]) -> None:
  """Estimates, asks what is left, scores.

  Raises:
    ValueError: a wrong argument, no scores, or a server that refuses.
  """
  parser = Parser(prog="suti judge", description=_DESCRIPTION, epilog=_EXAMPLES)
  add = parser.add_argument
  add("scores", metavar="SCORES", help="a folder of suti evaluate")
  add("--model", metavar="NAME", help="as the server calls it")
  add(
    "--address",
    metavar="URL",
    help="of the API, up to /v1; without it answers are scored, none is asked",
  )
  add(
    "--scale",
    default="dreambench-plus",
    metavar="NAME",
    help="dreambench-plus, viescore, or world: SubjectWorld's own judge, which "
    "asks nobody (default: dreambench-plus)",
  )
  add("--seed", type=int, default=_SEED, metavar="N", help="(default: 0)")
  add("--timeout", type=float, default=_TIMEOUT_S, metavar="SECONDS")
  add("--estimate", action="store_true", help="say what it takes, and stop")
  add("--price-in", type=float, metavar="X", help="of a million tokens")
  add("--price-out", type=float, metavar="X", help="of a million tokens")
  args = parser.parse_args(list(argv))
  if not 0 < args.timeout <= 3600:
    raise ValueError(f"--timeout={args.timeout:g} must be from 0 to 3600 s.")
  if not 0 <= args.seed < 2**31:
    raise ValueError(f"--seed={args.seed} must be between 0 and {2**31 - 1}.")
  prices = (args.price_in, args.price_out)
  if (prices[0] is None) != (prices[1] is None) or not all(
    x is None or 0 <= x < 1e6 for x in prices
  ):
    raise ValueError(
      "--price-in and --price-out are prices of a million tokens: give both, "
      "of 0 or more, or none."
    )
  scores = place_of(args.scores)
  if args.scale == "world":
    _judge_world(scores, args)
    return
  if args.model is None:
    raise ValueError(
      "--model is missing: give its name, as the server at --address has it."
    )
  from suti.evaluation.language_model.client import Address, check_url
  from suti.evaluation.language_model.judge import Judging

  url = check_url(args.address) if args.address else ""
  judging = Judging(scores, scale=args.scale, model=args.model, seed=args.seed)
  estimate = judging.estimate()
  line = (
    f"{estimate.calls} of {len(judging.calls)} questions are to be asked: "
    f"about {estimate.tokens_in:,} tokens in and {estimate.tokens_out:,} out"
  )
  if args.price_in is not None and args.price_out is not None:
    line += (
      f", a cost of about {estimate.cost(args.price_in, args.price_out):.2f}"
    )
  print(f"{line}.", flush=True)
  if args.estimate:
    return
  if not url and not judging.answered():
    raise ValueError(
      f"{judging.folder} has no answers to score: give --address to ask for "
      "them."
    )
  if url:
    judging.ask_all(Address(url=url, model=args.model, timeout_s=args.timeout))
  _print(judging.score(), judging.folder, "answers")


def _judge_world(scores: Path, args: argparse.Namespace) -> None:
  asking = {
    "--address": args.address,
    "--estimate": args.estimate,
    "--seed": args.seed != _SEED,
    "--timeout": args.timeout != _TIMEOUT_S,
    "--price-in": args.price_in is not None,
    "--price-out": args.price_out is not None,
  }
  if given := [name for name, is_given in asking.items() if is_given]:
    raise ValueError(
      f"--scale=world asks nobody: leave {' and '.join(given)} out."
    )
  from suti.runtime import xla_flags

  xla_flags.prepare()
  from apprentice.world_scale import MODEL, judge_world

  table, folder = judge_world(scores, model=args.model or MODEL)
  _print(table, folder, "pictures")


def _print(table: Mapping[str, Any], folder: Path, what: str) -> None:
  """The means, what is missing, and where it is written."""
  for name, found in table["scores"].items():
    if found:
      print(f"{name:<11}{found['mean']:.4f}  of {found['pictures']} pictures")
  why = ", ".join(f"{n} {w}" for w, n in table["failures"].items())
  print(
    f"{table['missing']} of {table['asked']} {what} are missing"
    f"{f': {why}' if why else ''}. Wrote {folder / 'scores.json'}."
  )
