"""Tokenizers as other programs read them: a Hugging Face folder's `tokenizer.json` and its stops.

One of ours is written so that it gives the same ids. Its pieces hold the blanks that they stand
for: a normalizer that writes U+2581 in their place would take the character itself for a blank.
Merges follow from scores: whatever two pieces join to a third is one, the best score first. A
unigram model finds any piece of the list in a text, also a byte like `<0x41>` or a control token,
which a text may spell but never mean; so what their names begin with is escaped.
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_jax.files import replacing, write_plain
from llm_jax.text.terminal import say
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.text.tokenizer_files import CONFIG, GENERATION, TEMPLATE, TOKENIZER, token
from llm_jax.text.tokenizer_json import TokenizerJson
from llm_jax.types import BadInput
from llm_jax.types import Tokenizer as AnyTokenizer

# What tokenizers of other kinds split, drop, compose, or read as a mark of their own.
HARD = (
  '', ' ', '  ', '\n', ' \n\t\r\n ', 'a' * 97, '  ' * 33, '\n' * 50, 'ab' * 40, '=' * 65, 'word',
  ' word', 'word ', "don't you're WE'LL", '0123456789 3.14 1,000,000', 'caf\xe9 cafe\u0301 \ufb01',
  '猫が好き。', 'привет мир', 'مرحبا', 'नमस्ते', '한국어', '\U0001f469\u200d\U0001f469',
  '\u2581', ' \u2581a\u2581\u2581 b', '\u2585', '\0\x01\x7f\x85\xa0\u200b\u2028\ufeff\ufffd\ufdd0',
  '\U0010ffff\ue000', '<0x41><0xFF>', '<unk></s><s>', 'def f(x):\n    return x  # y\n\n\n', '<<<|',
  'a<b>c</b>', '{"a": [1, 2]}', 'https://example.org/?q=1&r=%20', 'x' + '\u0301' * 20,
)  # fmt: skip
_NORMAL, _BYTE = 1, 6  # types of pieces in SentencePiece's ModelProto
_UNIGRAM = 1  # its type of a model
_DRAWN = 200  # texts of random pieces that are compared, twice as many


def save(tokenizer: AnyTokenizer, folder: Path, stops: Sequence[int]) -> None:
  """Writes a tokenizer, its chat template and what ends an answer, for transformers.

  Args:
    tokenizer: of either make.
    folder: that exists.
    stops: ids that end an answer, the end of a document first.

  Raises:
    BadInput: there is a text to which other programs would give other ids.
  """
  if isinstance(tokenizer, Tokenizer):
    write_plain(folder / TOKENIZER, document(tokenizer))
    write_plain(folder / CONFIG, _config(tokenizer))
  else:
    tokenizer.save(folder)
  # Transformers' other classes have ideas of their own of what tokenizer.json should say.
  _add(folder / CONFIG, tokenizer_class='PreTrainedTokenizerFast')
  if (template := tokenizer.chat_template) is not None:
    with replacing(folder / TEMPLATE) as file:  # where transformers 5 looks for it; 4 does below
      file.write(template.encode())
    _add(folder / CONFIG, chat_template=template)
  bos = {} if tokenizer.bos_id is None else {'bos_token_id': tokenizer.bos_id}
  _add(folder / GENERATION, eos_token_id=[*stops], **bos)
  if isinstance(tokenizer, Tokenizer):
    _compare(tokenizer, folder)


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
  name_of = {i: name for name, i in tokenizer.specials.items()}
  return {
    'bos_token': name_of[tokenizer.bos_id],
    'eos_token': name_of[tokenizer.eos_id],
    'pad_token': name_of[tokenizer.pad_id],
    'add_bos_token': True,
    'clean_up_tokenization_spaces': False,
  }


def _add(path: Path, **entries: Any) -> None:
  """Adds entries to a JSON file, which may not be there yet."""
  said = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
  write_plain(path, said | entries)


def document(tokenizer: Tokenizer) -> dict[str, Any]:
  """The `tokenizer.json` of a tokenizer of ours."""
  proto = tokenizer.proto()
  pieces = [p.piece.replace('\u2581', ' ') if p.type == _NORMAL else p.piece for p in proto.pieces]
  normal = {pieces[i]: p.score for i, p in enumerate(proto.pieces) if p.type == _NORMAL}
  names = {i: name for name, i in tokenizer.specials.items()}
  bos = names[tokenizer.bos_id]
  decoders: list[dict[str, Any]] = [{'type': 'ByteFallback'}, {'type': 'Fuse'}]
  normalizers, splits = [], []
  if proto.trainer_spec.model_type == _UNIGRAM:
    normalizers, splits, undo = _escapes(normal, [p for p in pieces if p not in normal])
    for rule in normalizers:
      before, after = rule['pattern']['String'], rule['content']
      pieces = [p.replace(before, after) if p in normal else p for p in pieces]
      normal |= {p: 0.0 for p in pieces if after in p}
    decoders = [*undo, *decoders]
    scores = [[piece, p.score] for piece, p in zip(pieces, proto.pieces)]
    unknown = proto.trainer_spec.unk_id
    model = {'type': 'Unigram', 'unk_id': unknown, 'vocab': scores, 'byte_fallback': True}
  else:
    model = {
      'type': 'BPE',
      'unk_token': pieces[proto.trainer_spec.unk_id],
      'fuse_unk': True,
      'byte_fallback': True,
      'vocab': {piece: i for i, piece in enumerate(pieces)},
      'merges': _merges(normal),
    }
  begin = {'SpecialToken': {'id': bos, 'type_id': 0}}
  one, other = ({'Sequence': {'id': x, 'type_id': i}} for i, x in enumerate('AB'))
  return {
    'version': '1.0',
    'truncation': None,
    'padding': None,
    'added_tokens': [token(name, i) for i, name in sorted(names.items())],
    'normalizer': {'type': 'Sequence', 'normalizers': normalizers} if normalizers else None,
    'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': splits} if splits else None,
    'post_processor': {
      'type': 'TemplateProcessing',
      'single': [begin, one],
      'pair': [begin, one, other],
      'special_tokens': {bos: {'id': bos, 'ids': [tokenizer.bos_id], 'tokens': [bos]}},
    },
    'decoder': {'type': 'Sequence', 'decoders': decoders},
    'model': model,
  }


def _merges(scores: dict[str, float]) -> list[list[str]]:
  """Pairs of pieces that make a third, the best score first."""
  cuts = [(p, i) for p in scores for i in range(1, len(p)) if p[:i] in scores and p[i:] in scores]
  return [[p[:i], p[i:]] for p, i in sorted(cuts, key=lambda cut: -scores[cut[0]])]


def _escapes(
  normal: Sequence[str] | dict[str, float], names: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
  """Normalizers, splits and decoders after which no text has a name in it.

  Where a piece has the first character of a name in it, that is written with a second one behind
  it, in all pieces and texts; where none has, the text is cut there.
  """
  written = {*''.join([*normal, *names])}
  mark = next(c for c in map(chr, range(0xE000, 0xF900)) if c not in written)
  replaced, splits, undo = [], [], []
  for c in sorted({name[0] for name in names}):
    if any(c in piece for piece in normal):
      replaced.append({'type': 'Replace', 'pattern': {'String': c}, 'content': c + mark})
      undo.append({'type': 'Replace', 'pattern': {'String': c + mark}, 'content': c})
    else:
      cut = {'type': 'Split', 'pattern': {'String': c}, 'behavior': 'Isolated', 'invert': False}
      splits.append(cut)
  return replaced, splits, undo


def texts(tokenizer: Tokenizer) -> Iterator[str]:
  """Texts that are hard for one tokenizer or another, the same ones each time."""
  yield from HARD
  yield from (f'{a}{name}{a}' for name in tokenizer.specials for a in ('', ' ', '<', 'a'))
  draw, ids = random.Random(0), range(tokenizer.vocab_size)
  for _ in range(_DRAWN):
    some = draw.choices(ids, k=draw.randint(1, 40))
    yield tokenizer.decode(some, specials=True)
    yield tokenizer.decode(some[:3] * draw.randint(2, 9))


def _compare(tokenizer: Tokenizer, folder: Path) -> None:
  """Compares the folder's tokenizer with the one that it was made from.

  Unigram models may cut a text in two ways of the same probability, such as a run of blanks in
  pieces of one and two. SentencePiece takes one by how it rounds sums to 32 bits, others do not
  round; so that much may differ, and is said.

  Raises:
    BadInput: they read or write a text differently.
  """
  other = TokenizerJson.load(folder)
  proto, hard = tokenizer.proto(), list(texts(tokenizer))
  unigram = proto.trainer_spec.model_type == _UNIGRAM
  score = lambda ids: sum(proto.pieces[i].score for i in ids)
  same = lambda a, b: unigram and math.isclose(score(a), score(b), rel_tol=1e-6)
  tied = 0
  for text, ours, theirs in zip(hard, *(t.encode_batch(hard) for t in (tokenizer, other))):
    if other.decode(theirs) == text and (ours == theirs or same(ours, theirs)):
      tied += ours != theirs
      continue
    raise BadInput(
      f'convert: tokenizer.json would read {text[:40]!r} as {theirs[:9]}, not as {ours[:9]}; '
      'train a tokenizer with tokenizer.model_type=bpe for such an export'
    )
  for field in ('vocab_size', 'bos_id', 'eos_id', 'pad_id', 'begin', 'specials', 'chat_template'):
    if getattr(tokenizer, field) != getattr(other, field):
      raise AssertionError(f'{folder}: the tokenizer has another {field} than was written')
  if unigram:
    say(
      f'Of {len(hard)} hard texts {tied} are cut otherwise by tokenizer.json, with the same '
      'probability: others round the sums of unigram scores differently. With bpe no id differs.'
    )
