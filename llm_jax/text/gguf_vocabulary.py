"""A tokenizer as a GGUF file describes it for llama.cpp: tokens, types, scores or merges, stops.

llama.cpp has two kinds of BPE. `llama` is SentencePiece's: of all neighbours that make a token it
joins those whose token has the best score. `gpt2` is byte-level and has merges; how it splits a
text before them is a name, for which llama.cpp has a regular expression.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.text import tokenizer_export
from llm_jax.text.token_pieces import BLANK, parts
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput
from llm_jax.types import Tokenizer as AnyTokenizer

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # types of tokens
_ENDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SIGNS = r'\s*[\r\n]+|\s+(?!\S)|\s+'
_WORDS = (
  r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+',
  r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*',
)
_QWEN2 = rf'{_ENDS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SIGNS}'
_LLAMA3 = _QWEN2.replace(r'\p{N}| ', r'\p{N}{1,3}| ')
_TEKKEN = rf'{"|".join(_WORDS)}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SIGNS}'
_O200K = (
  rf'{"|".join(words + _ENDS + "?" for words in _WORDS)}|\p{{N}}{{1,3}}'
  rf'| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SIGNS}'
)
_BYTES, _GPT2 = ('ByteLevel', False), ('ByteLevel', True)  # and whether it splits as GPT-2 did
_THREE = ('Split', '[0-9][0-9][0-9]')
# The parts of a pre-tokenizer, and whether whole words come before merges -> its name there.
SPLITS: dict[tuple[Any, bool], str] = {
  ((_GPT2,), False): 'gpt-2',
  ((('Digits', True), _GPT2), False): 'starcoder',
  ((('Punctuation', 'Contiguous'), _GPT2, ('Digits', False), _THREE), False): 'falcon',
  ((('Split', _QWEN2), _BYTES), False): 'qwen2',
  ((('Split', _LLAMA3), _BYTES), False): 'dbrx',
  ((('Split', _LLAMA3), _BYTES), True): 'llama-bpe',
  ((('Split', _TEKKEN), _BYTES), True): 'tekken',
  ((('Split', _O200K), _BYTES), False): 'gpt-4o',
}


def entries(tokenizer: AnyTokenizer, rows: int, stops: Sequence[int]) -> dict[str, Any]:
  """The keys of the vocabulary.

  Args:
    tokenizer: of either make.
    rows: of the embedding; those without a token are unused.
    stops: ids that end an answer, the end of a document first.

  Raises:
    BadInput: llama.cpp has no such tokenizer; what it lacks is named.
  """
  document = _document(tokenizer)
  model = document['model']
  if model.get('type', 'BPE') != 'BPE':
    raise bad(f'a tokenizer of the kind {model["type"]} that spells the rest in bytes')
  vocabulary: dict[str, int] = model['vocab']
  tokens = [f'[PAD{i}]' for i in range(rows)]
  types = [UNUSED] * rows
  for text, i in vocabulary.items():
    tokens[i], types[i] = text, NORMAL
  for added in document['added_tokens']:
    i = added['id']
    tokens[i], types[i] = added['content'], CONTROL if added['special'] else USER
  merges = [tuple(x.split(' ')) if isinstance(x, str) else tuple(x) for x in model['merges']]
  own = _byte_level if _is_byte_level(document) else _sentencepiece
  found: dict[str, Any] = own(document, tokens, types, merges)
  found |= {'tokens': tokens, 'token_type': types, 'add_bos_token': bool(tokenizer.begin)}
  found |= {'add_eos_token': False}
  unknown = model.get('unk_token')
  ids = {
    'bos': tokenizer.bos_id,
    'unknown': None if unknown is None else vocabulary.get(unknown),
    'padding': tokenizer.pad_id,
    **dict(zip(('eos', 'eot', 'eom'), stops)),
  }
  found |= {f'{role}_token_id': i for role, i in ids.items() if i is not None}
  template = {} if (text := tokenizer.chat_template) is None else {'tokenizer.chat_template': text}
  return {f'tokenizer.ggml.{key}': value for key, value in found.items()} | template


def differences(tokenizer: AnyTokenizer) -> list[str]:
  """What llama.cpp reads otherwise, in words."""
  document, found = _document(tokenizer), []
  if _is_byte_level(document):
    if any(part['type'] == 'NFC' for part in parts(document.get('normalizer'))):
      found.append('texts that are not in NFC')
  elif isinstance(tokenizer, Tokenizer):
    found.append('the character U+2581, which is a blank there')
  return found


def bad(what: str) -> BadInput:
  """Of a tokenizer that llama.cpp lacks."""
  return BadInput(f'gguf: llama.cpp has no {what}; export with config.format=huggingface')


def _document(tokenizer: Any) -> dict[str, Any]:
  ours = isinstance(tokenizer, Tokenizer)
  return tokenizer_export.document(tokenizer) if ours else tokenizer.document


def _is_byte_level(document: Mapping[str, Any]) -> bool:
  return any(part['type'] == 'ByteLevel' for part in parts(document.get('decoder')))


def _byte_level(
  document: Mapping[str, Any],
  tokens: list[str],
  types: list[int],
  merges: list[tuple[str, ...]],
) -> dict[str, Any]:
  del tokens, types
  for part in parts(document.get('normalizer')):
    if part['type'] != 'NFC':
      raise bad(f'normalizer {part["type"]}')
  splits = tuple(map(_split, parts(document.get('pre_tokenizer'))))
  name = SPLITS.get((splits, bool(document['model'].get('ignore_merges'))))
  if name is None:
    raise bad(f'name for the pre-tokenizer {json.dumps(splits)[:200]}')
  return {'model': 'gpt2', 'pre': name, 'merges': [' '.join(pair) for pair in merges]}


def _split(part: Mapping[str, Any]) -> tuple[Any, ...]:
  """A part of a pre-tokenizer as the table has it; a longer tuple for what no row can have."""
  kind = part['type']
  said = {
    'ByteLevel': lambda: (part.get('use_regex', True),) + (True,) * bool(part['add_prefix_space']),
    'Digits': lambda: (part['individual_digits'],),
    'Punctuation': lambda: (part['behavior'],),
    'Split': lambda: (
      next(iter(part['pattern'].values())),
      *([part['behavior']] if part['behavior'] != 'Isolated' else []),
      *(['inverted'] if part.get('invert') else []),
    ),
  }
  return (kind, *said.get(kind, lambda: (dict(part),))())


def _sentencepiece(
  document: Mapping[str, Any],
  tokens: list[str],
  types: list[int],
  merges: list[tuple[str, ...]],
) -> dict[str, Any]:
  model = document['model']
  blank = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': BLANK}
  before = [*parts(document.get('normalizer')), *parts(document.get('pre_tokenizer'))]
  for part in before:
    if part != blank and part['type'] not in ('Prepend', 'Metaspace'):
      raise bad(f'{part["type"]} before the merges of SentencePiece')
  if not model.get('byte_fallback'):
    raise bad('tokenizer of SentencePiece without bytes')
  rank: dict[str, int] = {}
  for i, pair in enumerate(merges):
    rank.setdefault(''.join(pair), i)
  order = [''.join(pair) for pair in merges]
  turns = sum(a != b for a, b in itertools.pairwise(order)) + bool(order)
  pairs = set(merges)
  normal = {token for token, kind in zip(tokens, types) if kind == NORMAL}
  cuts = [(t[:i], t[i:]) for t in normal for i in range(1, len(t))]
  lost = [cut for cut in cuts if cut not in pairs and cut[0] in normal and cut[1] in normal]
  if lost or turns != len(rank):
    raise bad('merges that are not those of SentencePiece, which joins whatever makes a token')
  for i, text in enumerate(tokens):
    if types[i] == NORMAL and text == model.get('unk_token'):
      types[i] = UNKNOWN
    elif types[i] == NORMAL and text not in rank and len(text) == 6 and text[:3] == '<0x':
      types[i] = BYTE
    elif types[i] == NORMAL:
      tokens[i] = text.replace(' ', BLANK)
  if (unknown := model['vocab'].get(model.get('unk_token'))) is not None:
    types[unknown] = UNKNOWN
  scores = [-float(rank.get(text.replace(BLANK, ' '), rank.get(text, 0))) for text in tokens]
  return {
    'model': 'llama',
    'pre': 'default',
    'scores': scores,
    'add_space_prefix': any(
      part['type'] == 'Prepend' or part.get('prepend_scheme') in ('first', 'always')
      for part in before
    ),
    'remove_extra_whitespaces': False,
  }
