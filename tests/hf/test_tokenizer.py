# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: what is read without transformers is what transformers reads."""

import gzip
import os
import pathlib
import struct
import sys

import numpy as np
import pytest

from suti.hf import tokenizer as text_module
from suti.hf.find import PRETRAINED
from suti.hf.tokenizer import load_tokenizer
from suti.io.files import read_json, write_json

TEXTS = [
  "",
  "a dog",
  "A  Dog wearing\ta RED hat!",
  "ein Hund im Schnee, čtyři psi, 犬, 🐕",
  "a backpack with a blue house in the background " * 9,
]


@pytest.mark.parametrize("name", ["world_base/tokenizer", "world_clip"])
@pytest.mark.parametrize("length", [5, 32])
def test_ids_are_those_of_transformers(name, length):
  from transformers import AutoTokenizer

  theirs = AutoTokenizer.from_pretrained(
    PRETRAINED / name, local_files_only=True
  )(
    TEXTS,
    padding="max_length",
    truncation=True,
    max_length=length,
    return_tensors="np",
  )["input_ids"]
  ours = load_tokenizer(PRETRAINED / name, max_length=length)(TEXTS)
  assert ours.shape == (len(TEXTS), length) and ours.dtype == np.int32
  np.testing.assert_array_equal(ours, theirs)


def test_a_tokenizer_is_there_once_all_of_it_is(tmp_path, monkeypatch):
  written = []
  monkeypatch.setattr(
    text_module, "write_atomic", lambda path, _: written.append(path.name)
  )
  text_module.train_tokenizer(["a dog"], tmp_path, vocab_size=300, max_length=8)
  assert written == ["tokenizer_config.json", "tokenizer.json"]


def test_other_classes_are_left_to_transformers(tmp_path, monkeypatch):
  folder = PRETRAINED / "world_clip"
  config = read_json(folder / "tokenizer_config.json")
  (tmp_path / "tokenizer.json").write_bytes(
    (folder / "tokenizer.json").read_bytes()
  )
  write_json(
    tmp_path / "tokenizer_config.json",
    config | {"tokenizer_class": "CLIPTokenizer"},
  )
  monkeypatch.setitem(sys.modules, "transformers", None)
  load_tokenizer(folder, max_length=8)
  with pytest.raises(ImportError):
    load_tokenizer(tmp_path, max_length=8)


# --- CLIP --------------------------------------------------------------------

START, END = "<|startoftext|>", "<|endoftext|>"


def write_clip(folder, merges, *, pad=END):
  """Writes a CLIP tokenizer as Stable Diffusion's folders hold it."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  bytes_ = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
  tokens = [*bytes_, *(f"{c}</w>" for c in bytes_)]
  tokens += ["".join(merge.split()) for merge in merges] + [START, END]
  write_json(folder / "vocab.json", {t: i for i, t in enumerate(tokens)})
  text = "\n".join(["#version: 0.2", *merges, ""])
  (folder / "merges.txt").write_text(text, encoding="utf-8")
  config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
  config |= {"bos_token": START, "eos_token": END, "unk_token": END}
  if pad == "!":
    # SDXL's second one declares it so.
    config["added_tokens_decoder"] = {
      "0": {"content": "!", "normalized": False, "special": True}
    }
  write_json(folder / "tokenizer_config.json", config | {"pad_token": pad})
  return folder


MERGES = ["d o", "do g</w>", "c a", "ca t</w>", "t h", "th e</w>"]


def test_a_clip_of_two_files(tmp_path):
  tokenizer = load_tokenizer(write_clip(tmp_path, MERGES), max_length=8)
  start, end = 518, 519
  dog, cat, the = 513, 515, 517
  ids, mask = tokenizer.with_mask(["The  dog", "CAT!", "the " * 20])
  assert ids.dtype == np.int32 and mask.dtype == bool
  assert ids.tolist() == [
    [start, the, dog, end, end, end, end, end],
    [start, cat, 256, end, end, end, end, end],
    [start, the, the, the, the, the, the, end],
  ]
  # The first end token is text, those after it are padding.
  assert mask.sum(1).tolist() == [4, 4, 8]
  np.testing.assert_array_equal(tokenizer(["CAT!"]), ids[1:2])


@pytest.mark.parametrize("where", ["config", "map"])
def test_the_padding_of_other_encoders_has_id_zero(tmp_path, where):
  """SDXL's second tokenizer names it in one file, Stable Diffusion 2 in two."""
  write_clip(tmp_path, MERGES, pad="!" if where == "config" else END)
  if where == "map":
    write_json(tmp_path / "special_tokens_map.json", {"pad_token": "!"})
  ids, mask = load_tokenizer(tmp_path, max_length=6).with_mask(["cat!", ""])
  # What is written and what is padded with are one token then.
  assert ids.tolist() == [[518, 515, 0, 519, 0, 0], [518, 519, 0, 0, 0, 0]]
  assert mask.sum(1).tolist() == [4, 2]


@pytest.mark.parametrize("pad", [END, "!"])
def test_both_kinds_of_clip_files_are_one_tokenizer(tmp_path, pad):
  from transformers import CLIPTokenizer

  two = tmp_path / "two"
  two.mkdir()
  tokenizer = CLIPTokenizer.from_pretrained(write_clip(two, MERGES, pad=pad))
  tokenizer.save_pretrained(tmp_path / "one")
  assert not (tmp_path / "one" / "merges.txt").exists()
  texts = [*TEXTS, "the dog, the cat!"]
  for ours, theirs in zip(
    load_tokenizer(two, max_length=12).with_mask(texts),
    load_tokenizer(tmp_path / "one", max_length=12).with_mask(texts),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def none_named(monkeypatch):
  """No text of other tests is remembered, and none of these afterwards."""
  monkeypatch.setattr(text_module, "_named", set())


@pytest.mark.parametrize("kind", ["clip", "t5", "shipped"])
def test_what_an_encoder_does_not_read_is_said_once_a_text(
  tmp_path, capsys, none_named, request, kind
):
  if kind == "shipped":
    folder = PRETRAINED / "world_clip"
  elif kind == "clip":
    folder = write_clip(tmp_path, MERGES)
  else:
    folder = write_spiece(tmp_path, request.getfixturevalue("pieces"))
  tokenizers = [load_tokenizer(folder, max_length=6) for _ in range(2)]
  fits, long = "a", "the dog the cat the dog the house " + "on a dog " * 9
  shown = tokenizers[0]([fits, long])
  for tokenizer in tokenizers:  # SDXL has two
    np.testing.assert_array_equal(tokenizer([fits, long]), shown)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("A text is longer than the 6 tokens that are read: ")
  _, rest, end = line.split('"')
  assert end == " is left out."
  # Asked for, it is said each time.
  assert [tokenizers[0].cut(text) for text in (fits, long)] == ["", line]
  rest = rest.removesuffix("...")
  assert 40 < len(rest) <= 57 and rest in long and not long.startswith(rest)


def test_of_the_many_texts_of_a_stage_three_are_named(
  tmp_path, capsys, none_named
):
  tokenize = load_tokenizer(write_clip(tmp_path, MERGES), max_length=4)
  tokenize([f"the dog the {word}" for word in "abcdefgh"])
  tokenize([f"the cat the {word}" for word in "abcdefgh"])
  lines = capsys.readouterr().err.splitlines()
  assert [line.split('"')[1] for line in lines] == ["the a", "the b", "the c"]
  assert lines[2].endswith("Of other such texts nothing more is said.")


def test_ids_of_the_published_vocabulary(tmp_path):
  path = pathlib.Path(os.environ.get("SUTI_CLIP_VOCABULARY", ""))
  if not path.is_file():
    pytest.skip("SUTI_CLIP_VOCABULARY names no bpe_simple_vocab_16e6.txt.gz")
  lines = gzip.decompress(path.read_bytes()).decode().split("\n")
  folder = write_clip(tmp_path, lines[1 : 49152 - 256 - 2 + 1])
  ids, mask = load_tokenizer(folder, max_length=77).with_mask(
    ["hello world!", "a photo of a cat", "It's 2 dogs", "x " * 90]
  )
  assert ids.shape == (4, 77)
  assert ids[0, :5].tolist() == [49406, 3306, 1002, 256, 49407]
  assert ids[1, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
  assert ids[2, :6].tolist() == [49406, 585, 568, 273, 3255, 49407]
  assert (ids[3, 1:76] == 343).all() and ids[3, 76] == 49407
  assert mask.sum(1).tolist() == [5, 7, 6, 77]


# --- T5 ----------------------------------------------------------------------


def field(number, value):
  """One field of a protocol buffer."""
  if isinstance(value, float):
    return varint(number << 3 | 5) + struct.pack("<f", value)
  if isinstance(value, int):
    return varint(number << 3) + varint(value)
  return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
  low = value & 0x7F
  return (
    bytes([low]) if value < 128 else bytes([low | 128]) + varint(value >> 7)
  )


def charsmap():
  """A compiled table that makes of Q a q, and nothing else of the rest."""
  # A double array: from the root's child "Q" to a leaf at 0xFF, of value 0.
  units = np.zeros(256, np.uint32)
  units[ord("Q")] = ord("Q") | 1 << 8 | (ord("Q") ^ 0xFF) << 10
  units[0xFF] = 1 << 31
  return struct.pack("<I", 4 * len(units)) + units.tobytes() + b"q\0"


@pytest.fixture(scope="module")
def pieces():
  """A small unigram vocabulary, learned by the library `tokenizers`."""
  import json

  from tokenizers import Tokenizer, models, pre_tokenizers, trainers

  tokenizer = Tokenizer(models.Unigram())
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.train_from_iterator(
    ["a dog in the snow", "the quick cats of a red house"] * 3,
    trainers.UnigramTrainer(
      vocab_size=70,
      special_tokens=["<pad>", "</s>", "<unk>"],
      unk_token="<unk>",
      show_progress=False,
    ),
  )
  return [tuple(p) for p in json.loads(tokenizer.to_str())["model"]["vocab"]]


def write_spiece(folder, pieces):
  """Writes what sentencepiece would, and the config beside it."""
  model = b"".join(
    field(1, field(1, piece.encode()) + field(2, score) + field(3, 1))
    for piece, score in pieces
  )
  model += field(2, field(3, 1) + field(40, 2))
  model += field(3, field(1, b"nmt_nfkc") + field(2, charsmap()))
  (folder / "spiece.model").write_bytes(model)
  write_json(
    folder / "tokenizer_config.json",
    {"tokenizer_class": "T5Tokenizer", "extra_ids": 100},
  )
  return folder


def test_both_kinds_of_t5_files_are_the_publishers_tokenizer(tmp_path, pieces):
  from transformers import T5Tokenizer

  extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
  theirs = T5Tokenizer(
    vocab=[*pieces, *extra], _spm_precompiled_charsmap=charsmap()
  )
  theirs.save_pretrained(tmp_path / "json")
  (tmp_path / "spiece").mkdir()
  write_spiece(tmp_path / "spiece", pieces)
  texts = [
    *TEXTS,
    "The Quick  cat's\n HOUSE</s> <extra_id_3>x",
    "  a dog\t",
  ]
  expected = theirs(
    texts,
    padding="max_length",
    truncation=True,
    max_length=30,
    return_tensors="np",
  )
  quick = theirs("Quick")["input_ids"]
  assert quick == theirs("quick")["input_ids"], "the table is in use"
  for folder in ("json", "spiece"):
    ids, mask = load_tokenizer(tmp_path / folder, max_length=30).with_mask(
      texts
    )
    np.testing.assert_array_equal(ids, expected["input_ids"], err_msg=folder)
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    assert (ids[~mask] == 0).all() and mask[0].sum() == 1 and ids[0, 0] == 1


def test_a_spiece_model_needs_neither_transformers_nor_sentencepiece(
  tmp_path, pieces, monkeypatch
):
  monkeypatch.setitem(sys.modules, "transformers", None)
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  ids = load_tokenizer(write_spiece(tmp_path, pieces), max_length=77)(["a dog"])
  assert ids.shape == (1, 77)
  names = [pieces[i][0] for i in ids[0] if i]
  assert "".join(names) == "▁a▁dog</s>"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (
      b"",
      "not a sentencepiece model, or damaged: fetch it again, or give a tok",
    ),
    (b"version https://git-lfs", "not a sentencepiece model, or damaged"),
    (
      field(1, field(1, b"<unk>")),
      "has no piece <pad>, </s>: expected the voc",
    ),
  ],
)
def test_a_spiece_model_that_is_none_is_one_line(tmp_path, content, message):
  (tmp_path / "spiece.model").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    load_tokenizer(tmp_path, max_length=8)


def test_a_cut_off_spiece_model_is_one_line(tmp_path, pieces):
  file = write_spiece(tmp_path, pieces) / "spiece.model"
  file.write_bytes(file.read_bytes()[:-5])
  with pytest.raises(ValueError, match="or damaged: fetch it again"):
    load_tokenizer(tmp_path, max_length=8)


# --- None --------------------------------------------------------------------


def test_no_tokenizer_is_one_line(tmp_path):
  with pytest.raises(ValueError, match="No tokenizer in"):
    load_tokenizer(tmp_path, max_length=8)
  (tmp_path / "vocab.json").write_text("{}")
  with pytest.raises(
    ValueError, match=r"vocab\.json and no merges\.txt: fetch"
  ):
    load_tokenizer(tmp_path, max_length=8)


@pytest.mark.parametrize("by", ["tokenizers", "transformers"])
@pytest.mark.parametrize(
  "content", ["{", "{}", "[]", '{"model": {"type": "X"}}']
)
def test_a_damaged_tokenizer_is_one_line(tmp_path, by, content):
  (tmp_path / "tokenizer.json").write_text(content)
  config = read_json(PRETRAINED / "world_clip" / "tokenizer_config.json")
  if by == "transformers":
    config["tokenizer_class"] = "CLIPTokenizer"
  write_json(tmp_path / "tokenizer_config.json", config)
  with pytest.raises(ValueError) as error:
    load_tokenizer(tmp_path, max_length=8)
  text = str(error.value)
  assert text.startswith(f"The tokenizer in {tmp_path} cannot be read (")
  assert text.endswith("): fetch it again, all of its files.")
  assert "\n" not in text


def test_a_tokenizer_that_cannot_pad_is_one_line(tmp_path):
  folder = PRETRAINED / "world_clip"
  (tmp_path / "tokenizer.json").write_bytes(
    (folder / "tokenizer.json").read_bytes()
  )
  file = tmp_path / "tokenizer_config.json"
  config = read_json(folder / "tokenizer_config.json")
  write_json(file, config | {"pad_token": "<none>"})
  with pytest.raises(ValueError, match="has no token '<none>', with which its"):
    load_tokenizer(tmp_path, max_length=8)
  write_json(file, {"tokenizer_class": "PreTrainedTokenizerFast"})
  with pytest.raises(ValueError, match="it has no token to pad with"):
    load_tokenizer(tmp_path, max_length=8)


def test_code_in_a_folder_is_not_run(tmp_path):
  write_json(
    tmp_path / "tokenizer_config.json",
    {
      "tokenizer_class": "Evil",
      "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
    },
  )
  (tmp_path / "tokenizer.json").write_text("{}")
  (tmp_path / "evil.py").write_text(
    f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
  )
  with pytest.raises(ValueError, match=r"cannot be read"):
    load_tokenizer(tmp_path, max_length=8)
  assert not (tmp_path / "ran").exists()
