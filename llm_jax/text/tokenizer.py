"""A SentencePiece tokenizer (arXiv:1808.06226) that gives back every string exactly.

The text is neither normalised nor trimmed, and what is in no piece is spelled in bytes, so
`decode(encode(text)) == text` for every Unicode string. Special tokens are control symbols, which
no text can produce: a user who types `<|im_start|>` gets plain characters.
"""

import hashlib
import heapq
import io
import os
import random
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from llm_jax.files import read_json, replacing, write_json
from llm_jax.options import Count, Seed, TopP, suggest
from llm_jax.types import BadInput

PAD, BOS, EOS, UNKNOWN = '<|pad|>', '<|begin_of_text|>', '<|end_of_text|>', '<unk>'
SPECIALS = (
  '<|im_start|>',
  '<|im_sep|>',
  '<|im_end|>',
  '<SEARCH_START>',
  '<SEARCH_END>',
  '<RESULT_START>',
  '<RESULT_END>',
  '<THINK_START>',
  '<THINK_END>',
  '<|mask|>',
)
MODEL_TYPES = ('bpe', 'unigram')

# SentencePiece writes a space as this character, so the character itself has to go in as bytes.
_SPACE = '\u2581'
# The trainer drops a whole sentence for its own marks (U+2585) and longer than 4192 bytes.
_UNTRAINABLE = re.compile(f'[\0\u2585{_SPACE}]')
_SENTENCE = 1000
# The unigram trainer's sums depend on the number of threads, which is also written into the model.
# So it is a constant, and the model is the same on every machine.
_TRAINER_THREADS = 16


class Tokenizer:
  """Strings to ids and back; made by `train` or `load`.

  >>> tokenizer = Tokenizer.train(['the cat sat on the mat'], vocab_size=290)
  >>> tokenizer.decode(tokenizer.encode('<|im_start|>the 猫'))  # it has seen neither of the two
  '<|im_start|>the 猫'
  >>> tokenizer.special('<|im_start|>') in tokenizer.encode('<|im_start|>')
  False

  Attributes:
    chat_template: the Jinja text that turns messages into a string, or None.
    vocab_size: V, the number of ids.
    pad_id, bos_id, eos_id: ids of padding, begin and end of a document.
    begin, stop_ids: what goes before a document, and what ends an answer.
    specials: name -> id of every control token.
    token_bytes: int32 [V], UTF-8 bytes of text that each id stands for; 0 for control tokens.
    fingerprint: sha256 hex digest of the model.
  """

  # What this make has none of, and the other does: ids without a token, a blank before a text that
  # has none, and changes of the text.
  gaps: tuple[int, ...] = ()
  prefix_after: frozenset[int] = frozenset()
  normalizes: tuple[str, ...] = ()

  def __init__(self, model: bytes, chat_template: str | None = None):
    """`model` holds the bytes of a SentencePiece `tokenizer.model`."""
    self._model = model
    self.chat_template = chat_template
    processor = self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.vocab_size = processor.vocab_size()
    self.pad_id, self.bos_id, self.eos_id = (
      processor.pad_id(),
      processor.bos_id(),
      processor.eos_id(),
    )
    pieces = [processor.id_to_piece(i) for i in range(self.vocab_size)]
    self.begin, self.stop_ids = (self.bos_id,), (self.eos_id,)
    self.specials = {p: i for i, p in enumerate(pieces) if processor.is_control(i)}
    self._bytes = [self._piece_bytes(i, piece) for i, piece in enumerate(pieces)]
    self._shown = list(self._bytes)
    for name, i in self.specials.items():
      self._shown[i] = name.encode()
    self._byte_ids = [processor.piece_to_id(f'<0x{b:02X}>') for b in _SPACE.encode()]
    self.token_bytes = np.array([len(b) for b in self._bytes], np.int32)
    self.fingerprint = _fingerprint(model)

  def _piece_bytes(self, i: int, piece: str) -> bytes:
    if self._processor.is_control(i) or self._processor.is_unknown(i):
      return b''
    if self._processor.is_byte(i):
      return bytes([int(piece[1:-1], 16)])
    return piece.replace(_SPACE, ' ').encode()

  @classmethod
  def train(
    cls,
    texts: Iterable[str],
    *,
    vocab_size: Count = 4096,
    model_type: str = 'bpe',
    split_digits: bool = True,
    character_coverage: TopP = 0.9995,
    sample_bytes: Count = 100_000_000,
    specials: Sequence[str] = (),
    seed: Seed = 0,
  ) -> 'Tokenizer':
    """Learns a vocabulary; the same texts and options give the same bytes on every machine.

    Args:
      texts: documents, read once.
      vocab_size: V, with 14 special tokens and 256 bytes among them.
      model_type: 'bpe' or 'unigram'.
      split_digits: whether every digit is a token of its own.
      character_coverage: share of the characters that get a piece; rarer ones are spelled in bytes.
      sample_bytes: train on about this many bytes of documents, each equally likely to be drawn.
      specials: control tokens besides SPECIALS, such as those of another chat template.
      seed: of the draw.

    Raises:
      BadInput: no text, an unknown model_type, or a vocab_size that the texts cannot fill or that
        is too small for their characters; the message has the bound.
    """
    if model_type not in MODEL_TYPES:
      raise BadInput(
        f'tokenizer.model_type: no {model_type!r}; {suggest(model_type, list(MODEL_TYPES))}'
      )
    documents = _sample(texts, sample_bytes, seed)
    model = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_sentences(documents),
        model_writer=model,
        model_type=model_type,
        vocab_size=vocab_size,
        character_coverage=character_coverage,
        split_digits=split_digits,
        byte_fallback=True,
        normalization_rule_name='identity',
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece=PAD,
        bos_piece=BOS,
        eos_piece=EOS,
        unk_piece=UNKNOWN,
        control_symbols=list(dict.fromkeys([*SPECIALS, *specials])),
        num_threads=_TRAINER_THREADS,
        minloglevel=2,
      )
    except RuntimeError as error:
      raise _explained(error, documents, vocab_size) from error
    return cls(model.getvalue())

  @classmethod
  def load(cls, folder: str | os.PathLike) -> 'Tokenizer':
    """The tokenizer that `save` left in `folder`.

    Raises:
      BadInput: no tokenizer there, a damaged one, or two files that do not belong together.
    """
    folder = Path(folder)
    for name in ('tokenizer.model', 'special_tokens.json'):
      if not (folder / name).is_file():
        raise BadInput(
          f'{folder}: no tokenizer here ({name} is missing); '
          'python -m llm_jax.main --config=configs/tokenize.py makes one'
        )
    described = read_json(folder / 'special_tokens.json', 'copy the folder again')
    model = (folder / 'tokenizer.model').read_bytes()
    if described.get('fingerprint', fingerprint := _fingerprint(model)) != fingerprint:
      raise BadInput(f'{folder}/tokenizer.model is damaged, or another one; copy the folder again')
    try:
      tokenizer = cls(model, described.get('chat_template'))
    except RuntimeError as error:
      raise BadInput(
        f'{folder}/tokenizer.model: not a SentencePiece model; copy the file again'
      ) from error
    if described.get('specials') != tokenizer.specials:
      raise BadInput(
        f'{folder}: special_tokens.json and tokenizer.model name different special tokens; '
        'copy both files from the same folder'
      )
    return tokenizer

  def save(self, folder: str | os.PathLike) -> None:
    """Writes `tokenizer.model` and `special_tokens.json`, each in one atomic step."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
      'specials': self.specials,
      'chat_template': self.chat_template,
      'fingerprint': self.fingerprint,
    }
    write_json(folder / 'special_tokens.json', described)
    with replacing(folder / 'tokenizer.model') as file:
      file.write(self._model)

  def encode(self, text: str) -> list[int]:
    """Ids of `text`, without any special token.

    Raises:
      BadInput: `text` holds a lone surrogate, which no UTF-8 text can.
    """
    return self.encode_batch([text], threads=1)[0]

  def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
    """`encode` of each text on `threads` cores, by default all of them."""
    for i, text in enumerate(texts):
      check_unicode(text, f'text {i}')
    parts = [part for text in texts for part in text.split(_SPACE)]
    ids = self._processor.encode(parts, num_threads=threads or os.cpu_count() or 1)
    if len(parts) == len(texts):
      return ids
    return [list(whole) for whole in self._join(texts, iter(ids))]

  def _join(self, texts: Sequence[str], parts: Iterator[list[int]]) -> Iterator[list[int]]:
    for text in texts:
      ids = next(parts)
      for _ in range(text.count(_SPACE)):
        ids = ids + self._byte_ids + next(parts)
      yield ids

  def encode_pieces(
    self, conversations: Sequence[Sequence[tuple[str, bool]]], threads: int | None = None
  ) -> list[list[list[int]]]:
    """Ids of each piece (text, whether it is the name of a control token) of each conversation.

    Raises:
      BadInput: there is no such control token.
    """
    texts = sorted({text for pieces in conversations for text, control in pieces if not control})
    ids = dict(zip(texts, self.encode_batch(texts, threads), strict=True))
    some = lambda text, control: [self.special(text)] if control else ids[text]
    return [[some(*piece) for piece in pieces] for pieces in conversations]

  def decode(self, ids: Iterable[int], specials: bool = False, after: int | None = None) -> str:
    """The text of `ids`; bytes that are not UTF-8 show as the replacement character U+FFFD.

    Args:
      ids: integers in [0, V).
      specials: show control tokens by their names instead of leaving them out.
      after: the id that stands before them, which changes nothing in this make.

    Raises:
      BadInput: an id outside [0, V).
    """
    del after
    table = self._shown if specials else self._bytes
    ids = check_ids(ids, self.vocab_size)
    return b''.join([table[i] for i in ids]).decode('utf-8', errors='replace')

  def bytes_of(self, i: int) -> bytes:
    """What an id stands for: bytes of text, or the name of a control token; b'' if nothing."""
    return self._shown[i] if 0 <= i < len(self._shown) else b''

  def special(self, name: str) -> int:
    """The id of the control token `name`.

    Raises:
      BadInput: there is no such token; the message has the closest name.
    """
    return special_id(name, self.specials)

  def with_specials(self, names: Sequence[str]) -> 'Tokenizer':
    """The same tokenizer with more control tokens, whose ids follow those that are there.

    Raises:
      BadInput: one of them is there already.
    """
    check_new(names, {self._processor.id_to_piece(i) for i in range(self.vocab_size)})
    model = self.proto()
    for name in names:
      model.pieces.add(piece=name, score=0.0, type=model.SentencePiece.CONTROL)
    return Tokenizer(model.SerializeToString(), self.chat_template)

  def proto(self) -> Any:
    """SentencePiece's `ModelProto`: the pieces, their scores and types."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    return messages.ModelProto.FromString(self._model)

  def bytes_per_token(self, texts: Sequence[str]) -> float:
    """UTF-8 bytes of `texts` per token, without special tokens; 0 for no text."""
    tokens = sum(len(ids) for ids in self.encode_batch(texts))
    return sum(len(text.encode()) for text in texts) / tokens if tokens else 0.0

  def __reduce__(self):
    return Tokenizer, (self._model, self.chat_template)

  def __repr__(self) -> str:
    return f'Tokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})'


def special_id(name: str, specials: Mapping[str, int]) -> int:
  """The id of a control token of a tokenizer of either make.

  Raises:
    BadInput: there is no such token; the message has the closest name.
  """
  if name not in specials:
    raise BadInput(
      f'no special token {name!r}; {suggest(name, list(specials))}; init.add adds tokens to '
      "an artifact's tokenizer, tokenizer.add to that of a corpus"
    )
  return specials[name]


def check_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
  """The ids as a list; BadInput if one is outside [0, V)."""
  ids = [int(i) for i in ids]
  if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
    wrong = next(i for i in ids if not 0 <= i < vocab_size)
    raise BadInput(f'decode: id {wrong} is outside the vocabulary 0..{vocab_size - 1}')
  return ids


def _fingerprint(model: bytes) -> str:
  return hashlib.sha256(model).hexdigest()


def check_new(names: Sequence[str], known: Container[str]) -> None:
  """Raises BadInput unless every name is new, and a word that a control token can have."""
  for i, name in enumerate(names):
    if not isinstance(name, str) or len(name) < 2 or name in names[:i] or name in known:
      raise BadInput(
        f'tokenizer: {name!r} cannot be added as a control token; choose names of at least two '
        'characters that are no tokens yet, each once'
      )
    check_unicode(name, 'tokenizer: a control token')


def check_unicode(text: str, where: str) -> None:
  """Raises BadInput, opened by `where`, if `text` cannot be written as UTF-8."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise BadInput(
      f'{where}: lone surrogate {text[error.start]!a} at character {error.start} is not Unicode '
      "text; read the file with errors='replace' or take it out"
    ) from None


def _sample(texts: Iterable[str], sample_bytes: int, seed: int) -> list[str]:
  """Documents of about `sample_bytes` bytes in all, in their order, each equally likely.

  Every document draws a number, and those with the smallest numbers stay. This takes one pass, and
  holds no more than the sample in memory.
  """
  draw = random.Random(seed).random
  kept: list[tuple[float, int, str]] = []  # a heap, the largest draw on top
  total = 0
  for i, text in enumerate(texts):
    lot = -draw()
    if total >= sample_bytes and lot < kept[0][0]:
      continue
    check_unicode(text, f'text {i}')
    heapq.heappush(kept, (lot, i, text))
    total += len(text.encode())
    while total - (top := len(kept[0][2].encode())) >= sample_bytes:
      heapq.heappop(kept)
      total -= top
  return [text for _, _, text in sorted(kept, key=lambda item: item[1])]


def _sentences(documents: Iterable[str]) -> Iterator[str]:
  """Splits documents, before a line or a word, into sentences that are short enough to train on.

  The trainer strips newlines from the end of a sentence, so each is split before them.
  """
  for document in documents:
    for text in _UNTRAINABLE.split(document):
      start = 0
      while len(text) - start > _SENTENCE:
        stop = text.rfind('\n', start + 1, start + _SENTENCE)
        while stop > start + 1 and text[stop - 1] == '\n':
          stop -= 1
        if stop <= start:
          stop = text.rfind(' ', start + 1, start + _SENTENCE)
        if stop <= start:
          stop = start + _SENTENCE
        yield text[start:stop]
        start = stop
      yield text[start:]


def _explained(error: RuntimeError, documents: Sequence[str], vocab_size: int) -> BadInput:
  """The trainer's C++ message in the words of the config."""
  message = ' '.join(str(error).split())
  if not any(document.strip('\0\t\n') for document in documents):
    return BadInput('tokenizer: no text to train on; give documents that are not empty')
  if found := re.search(r'too high.*<= (\d+)', message):
    size = found.group(1)
    return BadInput(
      f'tokenizer.vocab_size {vocab_size} is more than this text can fill; '
      f'use {size} or less, or give more text'
    )
  if found := re.search(r'required_chars\. \d+ vs (\d+)', message):
    return BadInput(
      f'tokenizer.vocab_size {vocab_size} is too small for the special tokens, bytes and '
      f'characters of this text; use {found.group(1)} or more, or lower character_coverage'
    )
  return BadInput(f'tokenizer: SentencePiece cannot train on this text: {message}')
