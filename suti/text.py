# SPDX-License-Identifier: Apache-2.0
"""Text in, token ids out: the one importer of `transformers`.

A tokenizer is a folder with `tokenizer.json` (and `tokenizer_config.json`), as
published beside a text encoder. Nothing here touches a hub, and nothing here
encodes: the text encoder is a model (`suti.models.clip`).
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")

# ids_BL: B texts, L tokens (the encoder's max_position_embeddings).


def load_tokenizer(
  folder: Path | str, *, max_length: int
) -> Callable[[Sequence[str]], np.ndarray]:
  """Opens a published tokenizer folder.

  Args:
    folder: holds `tokenizer.json`, or a slow tokenizer's files.
    max_length: L, the length to which texts are cut and padded.

  Returns: a function from B texts to ids_BL, int32.

  Raises:
    ValueError: the folder holds no tokenizer.
  """
  folder = Path(folder)
  if not folder.is_dir() or not any(folder.iterdir()):
    raise ValueError(
      f"No tokenizer in {folder}: expected tokenizer.json there, as published "
      "beside the text encoder."
    )
  if (tokenizer := _open_plain(folder, max_length)) is not None:
    return lambda texts: np.asarray(
      [encoded.ids for encoded in tokenizer.encode_batch(list(texts))], np.int32
    )
  # It would say that it misses torch, which we do not.
  os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
  # Imported here: it takes a second, and most commands read no text.
  from transformers import AutoTokenizer

  tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)

  def tokenize(texts: Sequence[str]) -> np.ndarray:
    batch = tokenizer(
      list(texts),
      padding="max_length",
      truncation=True,
      max_length=max_length,
      return_tensors="np",
    )
    return np.asarray(batch["input_ids"], np.int32)

  return tokenize


def _open_plain(folder: Path, max_length: int) -> Any:
  """A tokenizer whose class adds nothing to its tokenizer.json, or None.

  Read by `tokenizers` itself, it spares the second that transformers takes.
  """
  file = folder / "tokenizer_config.json"
  if not (file.is_file() and (folder / "tokenizer.json").is_file()):
    return None
  config = json.loads(file.read_bytes())
  pad = config.get("pad_token")
  if config.get("tokenizer_class") not in _PLAIN or not isinstance(pad, str):
    return None
  from tokenizers import Tokenizer

  tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokenizer.enable_truncation(max_length)
  tokenizer.enable_padding(
    length=max_length, pad_token=pad, pad_id=tokenizer.token_to_id(pad)
  )
  return tokenizer


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
  PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    bos_token=start,
    eos_token=end,
    pad_token=end,
    unk_token=end,
    model_max_length=max_length,
  ).save_pretrained(Path(folder))
