"""What the tokens of a `tokenizer.json` stand for, and what such a tokenizer changes in a text.

Byte-level vocabularies write each byte as one of 256 printable characters (arXiv:1910.03771; the
table is that of GPT-2's encoder). SentencePiece's write a blank as U+2581, and a byte that is in no
piece as `<0xNN>`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llm_jax.types import BadInput

BLANK = '\u2581'
_UTF8 = (*range(0xC0), *range(0xC2, 0xF5))  # the bytes that UTF-8 has
_BYTE = re.compile(r'<0x([0-9A-F]{2})>')
# Parts of a tokenizer that may lose something, in words; a kind that is in neither list might.
_CHANGES = {
  'NFC': 'Unicode is composed (NFC)',
  'NFD': 'Unicode is decomposed (NFD)',
  'NFKC': 'Unicode is composed by compatibility (NFKC)',
  'NFKD': 'Unicode is decomposed by compatibility (NFKD)',
  'Lowercase': 'capitals become small letters',
  'Strip': 'blanks at the ends are dropped',
  'StripAccents': 'accents are dropped',
  'Precompiled': 'characters are replaced by a table of SentencePiece',
  'Whitespace': 'blanks are dropped',
  'WhitespaceSplit': 'blanks are dropped',
}
_KEEPS = ('Prepend', 'ByteLevel', 'Metaspace', 'Digits', 'UnicodeScripts')


def parts(group: Any) -> Iterator[Mapping[str, Any]]:
  """The parts of a normalizer, pre-tokenizer or decoder, those of sequences one by one."""
  if isinstance(group, Mapping):
    inner = next((group[k] for k in ('normalizers', 'pretokenizers', 'decoders') if k in group), ())
    if group.get('type') == 'Sequence':
      for part in inner:
        yield from parts(part)
    else:
      yield group


def byte_table(
  document: Mapping[str, Any], vocabulary: Mapping[str, int], added: Collection[str], where: str
) -> list[bytes]:
  """The UTF-8 bytes of every id; empty where there is no token.

  Args:
    document: `tokenizer.json`.
    vocabulary: token -> id, with the added tokens.
    added: the added tokens, which stand for themselves.
    where: what an error calls the place of the file.

  Raises:
    BadInput: the decoder is neither byte-level nor that of SentencePiece.
  """
  kinds = [part['type'] for part in parts(document.get('decoder'))]
  table = [b''] * (max(vocabulary.values(), default=-1) + 1)
  if 'ByteLevel' in kinds:
    # Latin-1 is bytes as characters; what stands for no byte is moved out of it.
    to_bytes: dict[int, int] = dict.fromkeys(range(256), 0xFFFF)
    to_bytes |= {ord(c): b for b, c in enumerate(byte_characters())}
    for token, i in vocabulary.items():
      try:
        table[i] = token.encode() if token in added else token.translate(to_bytes).encode('latin-1')
      except UnicodeEncodeError:
        table[i] = token.encode()
    return table
  if not {'ByteFallback', 'Replace', 'Metaspace'} & set(kinds):
    raise BadInput(
      f'{where}: tokenizer.json has the decoder {kinds or None}; those of byte-level and '
      'SentencePiece vocabularies are read'
    )
  pairs = list(_replaced(document))
  for token, i in vocabulary.items():
    if 'ByteFallback' in kinds and (byte := _BYTE.fullmatch(token)):
      table[i] = bytes([int(byte[1], 16)])
      continue
    for pattern, content in pairs:
      token = token.replace(pattern, content)
    table[i] = token.encode()
  return table


def _replaced(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
  """(piece, text) of what the decoder replaces."""
  for part in parts(document.get('decoder')):
    if part['type'] == 'Metaspace':
      yield part.get('replacement', BLANK), ' '
    elif part['type'] == 'Replace' and 'String' in part['pattern']:
      yield part['pattern']['String'], part['content']


def byte_characters() -> str:
  """The 256 characters that stand for bytes, in the order of the bytes.

  >>> byte_characters()[ord('A')], byte_characters()[ord(' ')]
  ('A', '\u0120')
  """
  printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  others = iter(range(0x100, 0x200))
  return ''.join(chr(b if b in printable else next(others)) for b in range(256))


def changes(document: Mapping[str, Any], table: Sequence[bytes]) -> tuple[str, ...]:
  """What `decode(encode(text))` may change in a text, in words; the prefix of a text aside."""
  found = []
  for part in (*parts(document.get('normalizer')), *parts(document.get('pre_tokenizer'))):
    kind = part['type']
    if kind == 'Replace':
      known = part['pattern'] == {'String': ' '} and part['content'] == BLANK
      found.append('' if known else f'{part["pattern"]} is replaced by {part["content"]!r}')
    elif kind in ('Split', 'Punctuation', 'CharDelimiterSplit'):
      dropped = kind == 'CharDelimiterSplit' or str(part.get('behavior')) == 'Removed'
      found.append(f'what {kind} splits at is dropped' if dropped else '')
    elif kind not in _KEEPS:
      found.append(_CHANGES.get(kind, f'whatever {kind} changes'))
  if any(token.get('lstrip') or token.get('rstrip') for token in document['added_tokens']):
    found.append('blanks beside some added tokens are dropped')
  if any(pattern == BLANK for pattern, _ in _replaced(document)):
    found.append('U+2581 is read as a blank')
  if (model := document['model']).get('type') == 'Unigram' and model.get('byte_fallback'):
    found.append('texts like <0x41> are read as bytes')
  if not {bytes([b]) for b in _UTF8} <= set(table):
    found.append('characters outside the vocabulary are dropped')
  return tuple(dict.fromkeys(filter(None, found)))


def without_prefix(document: Mapping[str, Any]) -> dict[str, Any]:
  """The `tokenizer.json` of the same tokenizer for texts that go on, which get no blank before."""
  both = {k: _unprefixed(document.get(k)) for k in ('normalizer', 'pre_tokenizer')}
  return {**document, **both}


def _unprefixed(group: Any) -> Any:
  if not isinstance(group, Mapping) or group.get('type') == 'Prepend':
    return None
  inner = {k: [*filter(None, map(_unprefixed, v))] for k, v in group.items() if isinstance(v, list)}
  off = {k: False for k in group if k == 'add_prefix_space'}
  if group.get('type') == 'Metaspace':
    off |= {'prepend_scheme': 'never'}
  return {**group, **inner, **off}
