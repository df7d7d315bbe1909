# SPDX-License-Identifier: Apache-2.0
"""Text in, token ids out: the one importer of `transformers`.

A tokenizer is a folder as published beside a text encoder, with one of

  tokenizer.json             any kind
  vocab.json  merges.txt     CLIP's
  spiece.model               T5's, the unigram model that sentencepiece writes

and tokenizer_config.json, which says what texts are padded with. Nothing here
touches a hub, and nothing here encodes: the text encoder is a model
(`suti.models.clip`, `suti.models.t5`). A text that is longer than the
encoder reads is cut, with a warning on stderr for the first few texts of a
process.

Shape suffixes: B texts, L tokens (the encoder's max_position_embeddings, or 77
for the T5 of DeepFloyd IF).
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suti.hf.sentencepiece import read_pieces
from suti.io.files import read_object, write_atomic
from suti.runtime.progress import say

# Classes that add nothing to their tokenizer.json.
_PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
_T5_SPECIALS = ("<pad>", "</s>", "<unk>")
_EXTRA_IDS = 100  # of T5, after those that spiece.model holds
_NAMED = 3  # texts of a process that are cut, before it falls silent
_named: set[str] = set()  # two encoders of one model cut the same


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
  """Reads texts with one vocabulary, cut and padded to one length.

  Attributes:
    with_mask: B texts -> (ids_BL int32, mask_BL bool); False is padding.
    cut: a text -> a line on what of it is not read, "" if all is.
  """

  with_mask: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
  cut: Callable[[str], str]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """B texts -> ids_BL, int32."""
    return self.with_mask(texts)[0]


def load_tokenizer(folder: Path | str, *, max_length: int) -> Tokenizer:
  """Opens a published tokenizer folder.

  Args:
    folder: holds one of the kinds of files above.
    max_length: L, the length to which texts are cut and padded.

  Raises:
    ValueError: the folder holds no tokenizer, or one that cannot be read.
  """
  folder = Path(folder)
  kinds = ("tokenizer.json", "vocab.json", "spiece.model")
  found = [name for name in kinds if (folder / name).is_file()]
  if not found:
    raise ValueError(
      f"No tokenizer in {folder}: expected tokenizer.json there, as published "
      "beside the text encoder, or vocab.json and merges.txt, or spiece.model."
    )
  if found == ["vocab.json"] and not (folder / "merges.txt").is_file():
    raise ValueError(
      f"{folder} has vocab.json and no merges.txt: fetch both, they are one."
    )
  if found == ["spiece.model"]:
    backend = _open_sentencepiece(folder / "spiece.model")
    return _wrap(backend, max_length, "<pad>")
  pad = _plain_padding(folder)
  try:
    if pad is None:
      return _open_with_transformers(folder, max_length)
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(folder / "tokenizer.json"))
  except ImportError:
    raise
  # The libraries raise whatever occurs to them for a file that is damaged.
  except Exception as error:
    raise ValueError(
      f"The tokenizer in {folder} cannot be read ({_first_line(error)}): fetch "
      "it again, all of its files."
    ) from error
  if backend.token_to_id(pad) is None:
    raise ValueError(
      f"{folder / 'tokenizer.json'} has no token {pad!r}, with which its "
      "tokenizer_config.json pads: fetch both again."
    )
  return _wrap(backend, max_length, pad)


def _first_line(error: Exception) -> str:
  return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _wrap(backend: Any, max_length: int, pad: str) -> Tokenizer:
  """A tokenizer of the library `tokenizers`, which has all but the lengths."""
  backend.enable_truncation(max_length)
  backend.enable_padding(
    length=max_length, pad_token=pad, pad_id=backend.token_to_id(pad)
  )

  def with_mask(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    rows = backend.encode_batch(list(texts))
    _say_what_is_cut(texts, rows, max_length)
    return (
      np.asarray([row.ids for row in rows], np.int32),
      np.asarray([row.attention_mask for row in rows], bool),
    )

  def cut(text: str) -> str:
    return _describe_cut(text, backend.encode(text), max_length)

  return Tokenizer(with_mask=with_mask, cut=cut)


def _say_what_is_cut(
  texts: Sequence[str], rows: Sequence[Any], max_length: int
) -> None:
  """Warns of what an encoder will not read, once a text.

  Args:
    texts: any number.
    rows: what the library `tokenizers` made of them; none if another did.
    max_length: tokens that are left of each.
  """
  for text, row in zip(texts, rows, strict=False):
    if not row.overflowing or text in _named or len(_named) == _NAMED:
      continue
    _named.add(text)
    last = " Of other such texts nothing more is said."
    line = _describe_cut(text, row, max_length)
    say(f"{line}{last if len(_named) == _NAMED else ''}")


def _describe_cut(text: str, row: Any, max_length: int) -> str:
  if not row.overflowing:
    return ""
  rest = " ".join(text[max(end for _, end in row.offsets) :].split())
  rest = rest if len(rest) <= 60 else f"{rest[:57]}..."
  return (
    f'A text is longer than the {max_length} tokens that are read: "{rest}" '
    "is left out."
  )


def _plain_padding(folder: Path) -> str | None:
  """What a tokenizer pads with whose class adds nothing, or None.

  Read by `tokenizers` itself, it spares the second that transformers takes.
  """
  file = folder / "tokenizer_config.json"
  if not (file.is_file() and (folder / "tokenizer.json").is_file()):
    return None
  config = read_object(file)
  pad = config.get("pad_token")
  if config.get("tokenizer_class") not in _PLAIN or not isinstance(pad, str):
    return None
  return pad


def _open_with_transformers(folder: Path, max_length: int) -> Tokenizer:
  """Any other kind, whose special tokens may stand in three files."""
  # It would say that it misses torch, which we do not.
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  # Imported here: it takes a second, and most commands read no text.
  from transformers import AutoTokenizer

  # Code that a folder brings with it is never run.
  tokenizer = AutoTokenizer.from_pretrained(
    folder, local_files_only=True, trust_remote_code=False
  )
  if tokenizer.pad_token is None:
    raise ValueError("it has no token to pad with")

  def encode(texts: Sequence[str]) -> Any:
    return tokenizer(
      list(texts),
      padding="max_length",
      truncation=True,
      max_length=max_length,
      return_tensors="np",
    )

  def with_mask(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    batch = encode(texts)
    _say_what_is_cut(texts, batch.encodings or (), max_length)
    ids_BL = np.asarray(batch["input_ids"], np.int32)
    return ids_BL, np.asarray(batch["attention_mask"], bool)

  def cut(text: str) -> str:
    rows = encode([text]).encodings  # none of a tokenizer in Python
    return _describe_cut(text, rows[0], max_length) if rows else ""

  return Tokenizer(with_mask=with_mask, cut=cut)


def _open_sentencepiece(file: Path) -> Any:
  """T5's tokenizer from its spiece.model.

  transformers can read one only where sentencepiece is installed, too.
  """
  from tokenizers import Tokenizer as Backend
  from tokenizers import models, normalizers, pre_tokenizers, processors

  pieces, charsmap = read_pieces(file)
  ids = {piece: i for i, (piece, _) in enumerate(pieces)}
  if absent := [name for name in _T5_SPECIALS if name not in ids]:
    raise ValueError(
      f"{file} has no piece {', '.join(absent)}: expected the vocabulary of a "
      "T5, the only one that is read from a spiece.model."
    )
  backend = Backend(models.Unigram(pieces, ids["<unk>"], False))
  if charsmap:
    backend.normalizer = normalizers.Precompiled(charsmap)
  backend.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
  )
  backend.post_processor = processors.TemplateProcessing(
    single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
  )
  extra = [f"<extra_id_{i}>" for i in reversed(range(_EXTRA_IDS))]
  backend.add_special_tokens([*_T5_SPECIALS, *extra])
  return backend


def train_tokenizer(
  texts: Sequence[str], folder: Path | str, *, vocab_size: int, max_length: int
) -> None:
  """Learns a byte-level BPE vocabulary and writes it as a tokenizer folder.

  Bytes are the fallback, so any text can be read. Texts are lower-cased, and
  framed and padded as CLIP does: start, text, end, end, ...

  Args:
    texts: the corpus.
    folder: where `tokenizer.json` and `tokenizer_config.json` go.
    vocab_size: number of tokens, specials included; at least 258.
    max_length: length to which the tokenizer cuts by default.
  """
  from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
  )

  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  from transformers import PreTrainedTokenizerFast

  start, end = "<|startoftext|>", "<|endoftext|>"
  tokenizer = Tokenizer(models.BPE(unk_token=None))
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()]
  )
  # The space in front makes a word the same token wherever it stands.
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size,
    special_tokens=[start, end],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  ids = {token: tokenizer.token_to_id(token) for token in (start, end)}
  tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{start} $A {end}", special_tokens=list(ids.items())
  )
  whole = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    bos_token=start,
    eos_token=end,
    pad_token=end,
    unk_token=end,
    model_max_length=max_length,
  )
  with tempfile.TemporaryDirectory() as written:
    whole.save_pretrained(written)
    # By tokenizer.json readers see that there is one: it comes last.
    for file in sorted(
      Path(written).iterdir(), key=lambda file: file.name == "tokenizer.json"
    ):
      write_atomic(Path(folder) / file.name, file.read_bytes())
