"""The tokenizer of a folder, of either make: an artifact's, or that of a Hugging Face model."""

import os
from pathlib import Path

from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.tokenizer_files import TOKENIZER
from llm_jax.text.tokenizer_json import TokenizerJson
from llm_jax.types import BadInput
from llm_jax.types import Tokenizer as AnyTokenizer

OURS = 'tokenizer.model', 'special_tokens.json'


def load(folder: str | os.PathLike) -> AnyTokenizer:
  """The tokenizer in `folder`.

  Raises:
    BadInput: there is none, or a damaged one.
  """
  model, described, document = ((Path(folder) / name).is_file() for name in (*OURS, TOKENIZER))
  if document and not described:
    return TokenizerJson.load(folder)
  if model and not described:
    raise BadInput(
      f'{folder}: {OURS[0]} without {OURS[1]}; copy it again if it was made here, else let '
      f'transformers write a {TOKENIZER}, AutoTokenizer.from_pretrained(...).save_pretrained(...)'
    )
  return Tokenizer.load(folder)


def holds(folder: str | os.PathLike) -> bool:
  """Whether a tokenizer was saved there."""
  return any((Path(folder) / name).is_file() for name in (OURS[0], TOKENIZER))
