# SPDX-License-Identifier: Apache-2.0
"""What a sentencepiece model file (spiece.model) holds, as plain data.

T5 and DeepFloyd IF publish their vocabulary in no other file. It is a protocol
buffer, ModelProto of sentencepiece; neither that library nor protobuf is needed
to read the three things below: a processor of the library does not give the
table of normalised characters away, and its description of the buffer needs
protobuf beside it. Nothing is tokenized here (`suti.hf.tokenizer`).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_pieces(file: Path) -> tuple[list[tuple[str, float]], bytes]:
  """Reads the vocabulary of a model.

  Args:
    file: as published.

  Returns:
    pieces: (piece, its log probability), by id.
    charsmap: sentencepiece's compiled table of normalised characters; may be
      empty.

  Raises:
    ValueError: the file is damaged or another kind of file.
  """
  pieces, charsmap = [], b""
  try:
    for number, value in _fields(file.read_bytes()):
      if number == 1:  # pieces: 1 the piece, 2 its score
        piece = dict(_fields(value))
        (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
        pieces.append((piece[1].decode(), score))
      elif number == 3:  # normalizer_spec: 2 precompiled_charsmap
        charsmap = dict(_fields(value)).get(2, b"")
  except Exception as error:
    # Bytes that are none of this can fail at every step.
    pieces, cause = [], error
  else:
    cause = None
  if not pieces:
    raise ValueError(
      f"{file} is not a sentencepiece model, or damaged: fetch it again, or "
      "give a tokenizer.json."
    ) from cause
  return pieces, charsmap


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
  """Fields of a protocol buffer: (number, bytes, or an int where it is one)."""
  at = 0

  def varint() -> int:
    nonlocal at
    value = shift = 0
    while True:
      byte = message[at]
      at += 1
      value |= (byte & 0x7F) << shift
      shift += 7
      if byte < 0x80:
        return value

  while at < len(message):
    key = varint()
    number, kind = key >> 3, key & 7
    if kind == 0:
      yield number, varint()
      continue
    size = varint() if kind == 2 else {1: 8, 5: 4}[kind]
    if at + size > len(message):
      raise ValueError("cut off")
    at += size
    yield number, message[at - size : at]
