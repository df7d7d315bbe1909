# SPDX-License-Identifier: Apache-2.0
"""`suti generate`: pictures of a text, and of a subject if one is given.

with --subject      by an apprentice, without fine-tuning (`subject.py`)
and --adapter       by a published model and IP-Adapter (`adapted.py`)
without             by a published text-to-image model (`text_only.py`)
"""

import argparse
from collections.abc import Sequence

from suti.cli.parser import Parser
from suti.config.samplers import GUIDANCE, PUBLISHED

_DESCRIPTION = """\
Shows a subject, given as pictures, in a new scene; without --subject samples a
text alone, with a published text-to-image model.
"""
_EXAMPLES = """\
examples:
  suti generate --subject my_dog/ --prompt "a dog in the snow" --out dog.png
  suti generate --model stabilityai/stable-diffusion-xl-base-1.0 \\
    --prompt "a lighthouse in a storm" --out lighthouse.png
  suti generate --model models/sd15 --adapter ip-adapter_sd15.safetensors \\
    --subject dog.jpg --prompt "a dog on a beach" --out dog.png
  suti generate --model models/sd15 --lora expert.safetensors:0.8 \\
    --prompt "a dog on a beach" --num 4 --out dogs.png
"""

# Flags of only one of the two ways.
_SUBJECT_ONLY = (
  "caption",
  "guidance_mode",
  "text_guidance",
  "subject_scale",
  "mask",
)
_TEXT_ONLY = (
  "negative",
  "size",
  "sampler",
  "lora",
  "enlarge",
  "depth",
  "dtype",
)
# Flags that do not go with --adapter.
_UNADAPTED = ("caption", "guidance_mode", "text_guidance", "mask", "enlarge")


def generate(argv: Sequence[str]) -> None:
  """Reads the arguments and chooses the way.

  Raises:
    ValueError: arguments that do not go together.
  """
  args = _parser().parse_args(list(argv))
  if args.adapter:
    _check_adapted(args)
    from suti.cli.adapted import generate_adapted

    generate_adapted(args)
    return
  if args.image_encoder:
    raise ValueError(
      "--image-encoder is that of an IP-Adapter: give --adapter, or leave it "
      "out."
    )
  if args.subject:
    for name in _TEXT_ONLY:
      if getattr(args, name):
        raise ValueError(
          f"--{name} goes with a text alone: leave it out, or leave out "
          "--subject."
        )
    from suti.cli.subject import generate_subject

    generate_subject(args)
    return
  if not args.model:
    raise ValueError(
      "--subject or --model is missing: give pictures of a subject, or a "
      "text-to-image model to sample the text alone."
    )
  for name in _SUBJECT_ONLY:
    flag = name.replace("_", "-")
    if getattr(args, name) is not None:
      raise ValueError(
        f"--{flag} goes with pictures of a subject: give --subject, or leave "
        f"out --{flag}."
      )
  from suti.cli.text_only import generate_text

  generate_text(args)


def _check_adapted(args: argparse.Namespace) -> None:
  """Checks what goes with --adapter.

  Raises:
    ValueError: something is missing, or does not.
  """
  if not args.subject:
    raise ValueError(
      "--adapter shows the model pictures: give them as --subject, or leave "
      "out --adapter."
    )
  if not args.model:
    raise ValueError(
      "--adapter goes with a text-to-image model: give the one that it was "
      "trained for as --model, such as Stable Diffusion 1.5."
    )
  for name in _UNADAPTED:
    if getattr(args, name) is not None:
      flag = name.replace("_", "-")
      raise ValueError(
        f"--{flag} does not go with --adapter: leave out one of them."
      )


def _parser() -> Parser:
  parser = Parser(
    prog="suti generate",
    description=_DESCRIPTION,
    epilog=_EXAMPLES,
  )
  add = parser.add_argument
  add(
    "--prompt",
    required=True,
    metavar="TEXT",
    help='what to show; name the subject: "a dog wearing a red hat"',
  )
  add(
    "--out",
    required=True,
    metavar="FILE.png",
    help="the picture; where there are several, a contact sheet of them, and "
    "the pictures beside it as FILE-0.png ...",
  )
  add(
    "--subject",
    nargs="+",
    action="extend",
    metavar="DIR_OR_FILE",
    help="pictures of one subject, 1 to 10: a folder of them, or files "
    "(JPEG, PNG, WebP, AVIF, ...; HEIC with pillow-heif)",
  )
  add(
    "--caption",
    metavar="TEXT",
    help='what the pictures of --subject show: "a kettle" (default: what the '
    "prompt is about)",
  )
  add(
    "--model",
    metavar="NAME_OR_DIR",
    help="with --subject an apprentice: a shipped name, or "
    "WORKDIR/apprentice/train/model (default: world_apprentice); without, or "
    "with --adapter, a text-to-image model: a folder in the layout of "
    "diffusers, or ORG/NAME or ORG/NAME@REVISION on the Hugging Face hub",
  )
  add(
    "--num",
    type=int,
    metavar="N",
    help="how many pictures (default: 4 by an apprentice, else 1)",
  )
  add(
    "--seed",
    type=int,
    default=0,
    metavar="N",
    help="of the first picture; each next one has the next (default: 0). The "
    "picture of a seed is the same beside any --num, to rounding: a value may "
    "differ by 1 of 255",
  )
  add(
    "--steps",
    type=int,
    metavar="N",
    help="of the sampler (default: the model's)",
  )
  _add_guidance(parser)
  add(
    "--mask",
    metavar="FILE",
    help="with --subject, for methods that see one: a picture, white where the "
    "subject is to be",
  )
  _add_adapter(parser)
  _add_text_only(parser)
  return parser


def _add_adapter(parser: Parser) -> None:
  """The flags of `adapted.py`."""
  add = parser.add_argument_group("of a published IP-Adapter").add_argument
  add(
    "--adapter",
    metavar="FILE",
    help="with --subject and --model a text-to-image model: the .safetensors "
    "file of an IP-Adapter for it",
  )
  add(
    "--image-encoder",
    metavar="DIR",
    help="the CLIP that the IP-Adapter was trained with (default: "
    "image_encoder/ beside its file)",
  )
  add(
    "--subject-scale",
    type=float,
    metavar="W",
    help="how strongly an IP-Adapter shows the pictures, less follows the text "
    "more (default: the model's, 1 with --adapter)",
  )


def _add_guidance(parser: Parser) -> None:
  """How strongly text and pictures are followed."""
  add = parser.add_argument
  add(
    "--guidance",
    type=float,
    metavar="W",
    help="weight of guidance, how strongly text and pictures are followed; 1 "
    "is none, and of a text alone less is, too (default: the model's)",
  )
  add(
    "--guidance-mode",
    metavar="MODE",
    choices=GUIDANCE,
    help="with --subject, how text and pictures guide: "
    f"{', '.join(GUIDANCE)} (default: the model's)",
  )
  add(
    "--text-guidance",
    type=float,
    metavar="W",
    help="with --subject, the text's own weight, of all modes but joint "
    "(default: that of --guidance)",
  )


def _add_text_only(parser: Parser) -> None:
  """The flags of `text_only.py`."""
  add = parser.add_argument_group("of a text alone").add_argument
  add("--negative", metavar="TEXT", help="what not to show")
  add(
    "--size",
    metavar="WxH",
    help="in px, such as 768x512 (default: the model's)",
  )
  add(
    "--sampler",
    metavar="NAME",
    help=f"one of {', '.join(PUBLISHED)} (default: the model's)",
  )
  add(
    "--lora",
    nargs="+",
    action="extend",
    metavar="FILE_OR_REPO",
    help="experts to sample with: LoRA files of this project, of PEFT, of "
    "diffusers or of kohya, or on the Hugging Face hub ORG/NAME[@REVISION] or "
    "ORG/NAME/FILE.safetensors; FILE:0.8 for a part of one's strength",
  )
  add(
    "--enlarge",
    nargs="+",
    action="extend",
    metavar="NAME_OR_DIR",
    help="models of a cascade that enlarge the picture, such as DeepFloyd's "
    "IF-II",
  )
  add(
    "--depth",
    metavar="FILE",
    help="for models that see one, such as Stable Diffusion 2's for depth: a "
    "picture in which near is bright, as MiDaS and its successors make it",
  )
  add(
    "--dtype",
    metavar="TYPE",
    help="float32 or bfloat16 (default: bfloat16, on a CPU float32)",
  )
