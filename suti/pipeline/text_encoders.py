# SPDX-License-Identifier: Apache-2.0
"""The text encoders of published text-to-image models.

  text_encoder/  tokenizer/                 CLIP: Stable Diffusion 1 and 2
  ... and text_encoder_2/  tokenizer_2/     two CLIPs: SDXL
  text_encoder/ holding a T5                DeepFloyd IF

The encoders are frozen: each text is encoded once and cached.

Shape legend: `B` texts, `L` tokens, `D` width, `P` width of an embedding.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from suti.hf.model import Change, Model, open_model
from suti.hf.tokenizer import Tokenizer, load_tokenizer

_CLIPS = ("CLIPTextModel", "CLIPTextModelWithProjection")
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_KEPT = 8192
# What IF was trained with; T5 itself has no limit.
_T5_LENGTH = 77


class Text(NamedTuple):
  """Some texts, encoded.

  Attributes:
    states_BLD: of the tokens, float32. Padding is attended to as well, as in
      the training of the published models.
    pooled_BP: of the whole text, float32; for SDXL only, else None.
  """

  states_BLD: np.ndarray
  pooled_BP: np.ndarray | None = None


EncodeText = Callable[[Sequence[str]], Text]
_Encode = Callable[[Any, Sequence[str]], Text]  # (arrays, texts) -> Text


def open_text_encoders(
  folder: Path,
  *,
  dtype: Any = jnp.float32,
  rows: int = 16,
  change: Change | None = None,
  on_host: bool = False,
) -> EncodeText:
  """Opens the text encoders of a backbone's folder.

  Texts recur, prompts over subjects and demonstrations over steps: the last few
  thousand are cached.

  Args:
    folder: in the published layout.
    dtype: of the encoders' arrays.
    rows: texts of a batch; one compiled program serves any number.
    change: applied to the encoders' arrays, such as merging a LoRA.
    on_host: keep the arrays in the host's memory, and on the accelerator only
      while new texts are encoded: T5-XXL's are 9.5 GB in bfloat16.

  Returns: texts -> `Text`.

  Raises:
    ValueError: an encoder or a tokenizer is missing, of another kind, or its
      weights do not fit.
  """
  with _placing(on_host=on_host):
    models = _open(folder, dtype=dtype, change=change)
  if models[0].kind == "T5EncoderModel":
    encode = _t5(models[0], folder)
  elif len(models) == 1:
    encode = _clip(models[0], folder)
  else:
    encode = _two_clips(models[0], models[1], folder)
  params = [model.params for model in models]
  return _remembering(encode, params, num_rows=rows)


def blank_text(folder: Path) -> Text:
  """Zeros of the shape of one text, from the encoders' configs alone.

  Args:
    folder: in the published layout; needs neither weights nor tokenizers.

  Raises:
    ValueError: as `open_text_encoders`, but for weights.
  """
  models = describe_text_encoders(folder)
  if models[0].kind == "T5EncoderModel":
    length, width = _T5_LENGTH, models[0].spec["shared.weight"].shape[1]
  else:
    # The states of SDXL's two encoders are concatenated: they have one length.
    tables = [model.spec[_POSITIONS].shape for model in models]
    length, width = tables[0][0], sum(shape[1] for shape in tables)
  pooled_BP = None
  if len(models) == 2:
    width_p = models[1].spec["text_projection.weight"].shape[-1]
    pooled_BP = np.zeros((1, width_p), np.float32)
  return Text(np.zeros((1, length, width), np.float32), pooled_BP)


def describe_text_encoders(folder: Path) -> list[Model]:
  """The text encoders of a backbone's folder, one or two, without weights.

  Args:
    folder: in the published layout.

  Raises:
    ValueError: as `open_text_encoders`, but for weights and tokenizers.
  """
  return _open(folder, weights=False)


def open_tokenizer(folder: Path) -> Tokenizer:
  """The tokenizer of a backbone's first text encoder, whose tokens it reads.

  Args:
    folder: in the published layout.

  Raises:
    ValueError: as `open_text_encoders`.
  """
  model = describe_text_encoders(folder)[0]
  if model.kind == "T5EncoderModel":
    return _tokenizer(model, folder / "tokenizer", length=_T5_LENGTH)
  return _clip_tokenizer(model, folder / "tokenizer")


def _placing(*, on_host: bool) -> contextlib.AbstractContextManager:
  """A context in which arrays are read to the host, if its CPU is a device."""
  with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave it out
    if on_host:
      return jax.default_device(jax.local_devices(backend="cpu")[0])
  return contextlib.nullcontext()


def _open(folder: Path, **options: Any) -> list[Model]:
  """The encoders of a folder, one or two."""
  first = open_model(
    folder / "text_encoder", expected=(*_CLIPS, "T5EncoderModel"), **options
  )
  if first.kind == "T5EncoderModel" or not (folder / "text_encoder_2").is_dir():
    return [first]
  second = open_model(folder / "text_encoder_2", expected=_CLIPS[1:], **options)
  return [first, second]


def _clip(model: Model, folder: Path) -> _Encode:
  tokenize = _clip_tokenizer(model, folder / "tokenizer")
  encode = jax.jit(lambda params, ids: model.apply(params, ids))

  def encode_text(params: Any, texts: Sequence[str]) -> Text:
    return _text(encode(params[0], tokenize(texts)))

  return encode_text


def _two_clips(first: Model, second: Model, folder: Path) -> _Encode:
  """Penultimate states of both, concatenated (SDXL, section 2.1)."""
  tokenizers = (
    _clip_tokenizer(first, folder / "tokenizer"),
    _clip_tokenizer(second, folder / "tokenizer_2"),
  )

  @jax.jit
  def encode(params, ids):
    states_BLD = first.apply(params[0], ids[0], method="penultimate_states")
    more_BLD, pooled_BP = second.apply(
      params[1], ids[1], method="penultimate_states_and_embedding"
    )
    return jnp.concatenate([states_BLD, more_BLD], axis=-1), pooled_BP

  def encode_text(params: Any, texts: Sequence[str]) -> Text:
    ids = [tokenize(texts) for tokenize in tokenizers]
    return _text(*encode(params, ids))

  return encode_text


def _t5(model: Model, folder: Path) -> _Encode:
  tokenizer = _tokenizer(model, folder / "tokenizer", length=_T5_LENGTH)
  encode = jax.jit(lambda params, ids, mask: model.apply(params, ids, mask))

  def encode_text(params: Any, texts: Sequence[str]) -> Text:
    # As IF's captions were prepared, without the cleaning of web pages.
    ids_BL, mask_BL = tokenizer.with_mask([x.lower().strip() for x in texts])
    return _text(encode(params[0], ids_BL, mask_BL))

  return encode_text


def _clip_tokenizer(model: Model, folder: Path) -> Tokenizer:
  length = int(model.config.get("max_position_embeddings", 77))
  return _tokenizer(model, folder, length=length)


def _tokenizer(model: Model, folder: Path, *, length: int) -> Tokenizer:
  """Opens a tokenizer; a text encoder must have a vector for all its ids.

  Larger ids would silently get the vector of the last one.
  """
  tokenizer = load_tokenizer(folder, max_length=length)
  (num,) = {
    p.shape[0]
    for name, p in model.spec.items()
    if name in ("shared.weight", "text_model.embeddings.token_embedding.weight")
  }

  def with_mask(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    ids_BL, mask_BL = tokenizer.with_mask(texts)
    if ids_BL.max() >= num:
      raise ValueError(
        f"The tokenizer in {folder} has more than the {num} tokens of the text "
        "encoder: they are of different models, fetch them again."
      )
    return ids_BL, mask_BL

  return Tokenizer(with_mask=with_mask, cut=tokenizer.cut)


def _text(states_BLD, pooled_BP=None) -> Text:
  return Text(
    np.asarray(states_BLD, np.float32),
    None if pooled_BP is None else np.asarray(pooled_BP, np.float32),
  )


def _remembering(encode: _Encode, params: Any, *, num_rows: int) -> EncodeText:
  """Encodes in batches of one size, and each text once."""
  known: dict[str, Text] = {}  # rows; the oldest first

  def encode_text(texts: Sequence[str]) -> Text:
    # Threads of a loader share `known`: this call keeps its own rows.
    rows = {t: found for t in texts if (found := known.get(t)) is not None}
    new = [text for text in dict.fromkeys(texts) if text not in rows]
    # A copy of the call's own, where they are kept on the host.
    placed = jax.device_put(params, jax.local_devices()[0]) if new else None
    for start in range(0, len(new), num_rows):
      part = new[start : start + num_rows]
      encoded = encode(placed, part + [""] * (num_rows - len(part)))
      for i, text in enumerate(part):
        rows[text] = jax.tree.map(lambda x, i=i: x[i], encoded)
    known.update((text, rows[text]) for text in new)
    for text in list(known)[: max(0, len(known) - _KEPT)]:
      known.pop(text, None)
    return jax.tree.map(lambda *x: np.stack(x), *(rows[t] for t in texts))

  return encode_text
