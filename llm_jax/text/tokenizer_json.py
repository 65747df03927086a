"""Any Hugging Face tokenizer: a `tokenizer.json`, read by the package `tokenizers`.

Text makes no control token, as in our own make (text/tokenizer.py): `<|im_end|>` in a document or a
message is spelled in characters. Added tokens that are not special (`<tool_call>`, runs of blanks)
are read in any text, as everywhere else.

Some tokenizers write a blank before a text that has none, the dummy prefix of SentencePiece. It is
written where the library would write it if the whole conversation were one string, and taken away
again by `decode`.
"""

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from llm_jax.files import replacing
from llm_jax.text.token_pieces import byte_table, changes, without_prefix
from llm_jax.text.tokenizer import check_ids, check_new, check_unicode, special_id
from llm_jax.text.tokenizer_files import (
  CONFIG,
  GENERATION,
  MODEL,
  OTHERS,
  TEMPLATE,
  TOKENIZER,
  token,
)
from llm_jax.text.tokenizer_files import TokenizerFiles as Files
from llm_jax.types import BadInput

# Ids may have gaps; this many mean that the file is damaged, and would only take memory.
_MOST_GAPS = 1 << 20
# White space in Rust's regular expressions; Python's has U+001C to U+001F besides.
_BLANKS = r'(?:(?![\x1c-\x1f])\s)*'
_LEFT, _RIGHT = re.compile(rf'\A{_BLANKS}'), re.compile(rf'{_BLANKS}\Z')


class TokenizerJson:
  """Strings to ids and back; made by `load`.

  Attributes:
    document: `tokenizer.json`, as the library understood it.
    vocab_size: V, one more than the largest id. A model may have more rows.
    bos_id: the begin of a document, or None: Qwen and Phi have none.
    begin: ids that go before a document; empty where the tokenizer writes none.
    stop_ids: ids that end an answer, that of the end of a document first.
    specials: name -> id of every control token.
    gaps: ids below V that have no token.
    token_bytes: int32 [V], UTF-8 bytes of text that each id stands for; 0 for control tokens.
    prefix_after: ids after which a text gets a blank that it does not have.
    normalizes: what `decode(encode(text))` may change in a text, in words; empty if nothing.
    fingerprint: sha256 hex digest of tokenizer.json and the ids around a document.
    chat_template: the Jinja text that turns messages into a string, or None.
    chat_templates: name -> Jinja text; `chat_template` is the one named 'default'.
  """

  def __init__(self, files: Files):
    """`files` holds `tokenizer.json` and what is beside it."""
    self._files, self._where = files, f'{files.folder}/{TOKENIZER}'
    document = files.marked()
    self._reader = self._read(None if document is files.tokenizer else document)
    # As the library understood them, which also reads other forms than these.
    of = {part: getattr(self._reader, part) for part in ('normalizer', 'pre_tokenizer', 'decoder')}
    state = {name: part and json.loads(part.__getstate__()) for name, part in of.items()}
    self.document = {**document, **state}
    ids = self._reader.get_vocab(with_added_tokens=True)
    self.vocab_size = max(ids.values(), default=-1) + 1
    if not 0 < self.vocab_size <= len(ids) + _MOST_GAPS:
      raise BadInput(f'{self._where}: {len(ids)} tokens with ids up to {self.vocab_size - 1}')
    added = dict(sorted(self._reader.get_added_tokens_decoder().items()))
    self.specials = {token.content: i for i, token in added.items() if token.special}
    self.gaps = tuple(sorted(set(range(self.vocab_size)) - set(ids.values())))
    self._added_ids = set(added)
    self._strips = {token.content: (token.lstrip, token.rstrip) for token in added.values()}
    self._bytes = byte_table(self.document, ids, self._strips, files.folder)
    self._shown = list(self._bytes)
    for name, i in self.specials.items():
      self._bytes[i], self._shown[i] = b'', name.encode()
    self.token_bytes = np.array([len(b) for b in self._bytes], np.int32)
    # Unknown text is no forgery, and a model may have one token for it and for padding.
    self._control = set(self.specials.values()) - {self._id_of('unk_token')}
    self.bos_id, self.begin = self._begin()
    self.stop_ids = self._stops()
    self._prefix, self.prefix_after, lost = self._prefixed()
    self.normalizes = (*changes(self.document, self._shown), *lost)
    around = json.dumps([self.begin, self.stop_ids[:1]]).encode()
    self.fingerprint = hashlib.sha256(files.contents[TOKENIZER] + around).hexdigest()
    self.chat_templates = files.templates
    self.chat_template = files.templates.get('default')

  @classmethod
  def load(cls, folder: str | os.PathLike) -> 'TokenizerJson':
    """That of a Hugging Face folder, or the one that `save` left in `folder`.

    Raises:
      BadInput: no tokenizer there, a damaged or unknown one, or a name that is none of its tokens.
    """
    files = Files.read(Path(folder))
    if TOKENIZER not in files.contents:
      raise BadInput(f'{folder}: no tokenizer here ({TOKENIZER} is missing)')
    return cls(files)

  def save(self, folder: str | os.PathLike) -> None:
    """Writes tokenizer.json as it came, and the files beside it."""
    folder = Path(folder)
    contents = {n: d for n, d in self._files.contents.items() if n not in (MODEL, TEMPLATE)}
    if 'chat_template' in (config := self._files.json(CONFIG)):
      del config['chat_template']  # said once, in a file of its own
      contents[CONFIG] = _text(config)
    generation = self._files.json(GENERATION)
    if self.stop_ids and generation.get('eos_token_id') != list(self.stop_ids):
      contents[GENERATION] = _text(generation | {'eos_token_id': list(self.stop_ids)})
    for name, template in {**self.chat_templates, 'default': self.chat_template}.items():
      if template is not None:
        path = TEMPLATE if name == 'default' else f'{OTHERS}/{name}.jinja'
        contents[path] = template.encode()
    for name, data in contents.items():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      with replacing(folder / name) as file:
        file.write(data)

  @property
  def eos_id(self) -> int:
    """The end of a document.

    Raises:
      BadInput: no file of the folder names it.
    """
    if not self.stop_ids:
      raise BadInput(
        f'{self._files.folder}: no file says which token ends a document; write one like '
        f'{{"eos_token": "</s>"}} into {CONFIG}'
      )
    return self.stop_ids[0]

  @property
  def pad_id(self) -> int:
    """What fills rows; the end of a document where nothing is named, as masks hide it anyway."""
    pad = self._id_of('pad_token')
    return self.eos_id if pad is None else pad

  def encode(self, text: str, specials: bool = False) -> list[int]:
    """Ids of `text`, without a begin or an end.

    Args:
      text: any Unicode text.
      specials: read the names of control tokens as such, which is for text of your own only.

    Raises:
      BadInput: `text` holds a lone surrogate, which no UTF-8 text can.
    """
    if specials:
      check_unicode(text, 'text')
      return self._parser.encode(text, add_special_tokens=False).ids
    return self.encode_batch([text], threads=1)[0]

  def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
    """`encode` of each text on `threads` cores, by default all of them."""
    return self._batch(self._reader, texts, threads)

  def encode_pieces(
    self, conversations: Sequence[Sequence[tuple[str, bool]]], threads: int | None = None
  ) -> list[list[list[int]]]:
    """Ids of each piece (text, whether it is the name of a control token) of each conversation.

    They are those that the library has for the pieces as one string, as long as no token spans two
    of them: a text gets a prefix where the string would, and loses the blanks that a control token
    beside it takes.
    """
    placed = [list(self._placed(pieces)) for pieces in conversations]
    ids = {}
    for reader in {reader for pieces in placed for _, reader in pieces if reader}:
      texts = sorted({text for pieces in placed for text, its in pieces if its is reader})
      found = self._batch(reader, texts, threads)
      ids |= {(text, reader): some for text, some in zip(texts, found, strict=True)}
    some = lambda text, reader: ids[text, reader] if reader else [self.special(text)]
    return [[some(*piece) for piece in pieces] for pieces in placed]

  def _placed(self, pieces: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, Any]]:
    """Each piece without the blanks it loses, and what reads it; None for a control token."""
    begun, before = False, ''  # whether there was anything, and the control token it ended in
    for i, (text, control) in enumerate(pieces):
      if control:
        yield text, None
        begun, before = True, text
        continue
      if self._strips.get(before, (False, False))[1]:
        text = _LEFT.sub('', text)
      after = pieces[i + 1][0] if i + 1 < len(pieces) and pieces[i + 1][1] else ''
      if self._strips.get(after, (False, False))[0]:
        text = _RIGHT.sub('', text)
      prefixed = self._prefix == 'always' if before else not begun
      yield text, self._reader if prefixed else self._continuing
      if text:
        begun, before = True, ''

  def decode(self, ids: Iterable[int], specials: bool = False, after: int | None = None) -> str:
    """The text of `ids`; bytes that are not UTF-8 show as the replacement character U+FFFD.

    Args:
      ids: integers in [0, V).
      specials: show control tokens by their names instead of leaving them out.
      after: the id that stands before them; a blank at their start belongs to the text then, unless
        it is one of `prefix_after`.

    Raises:
      BadInput: an id outside [0, V).
    """
    ids = check_ids(ids, self.vocab_size)
    table = self._shown if specials else self._bytes
    if not self._prefix:
      return b''.join([table[i] for i in ids]).decode('utf-8', errors='replace')
    found, prefixed = [], after is None or after in self.prefix_after
    for i in ids:
      piece = table[i]
      if i in self._added_ids:
        prefixed = i in self.prefix_after
      elif piece:
        piece, prefixed = piece.removeprefix(b' ') if prefixed else piece, False
      found.append(piece)
    return b''.join(found).decode('utf-8', errors='replace')

  def bytes_of(self, i: int) -> bytes:
    """What an id stands for: bytes of text, or the name of a control token; b'' if nothing."""
    return self._shown[i] if 0 <= i < len(self._shown) else b''

  def special(self, name: str) -> int:
    """The id of the control token `name`.

    Raises:
      BadInput: there is no such token; the message has the closest name.
    """
    return special_id(name, self.specials)

  def with_specials(self, names: Sequence[str]) -> 'TokenizerJson':
    """The same tokenizer with more control tokens, whose ids follow those that are there.

    Raises:
      BadInput: one of them is there already, perhaps as an ordinary token.
    """
    check_new(names, self._reader.get_vocab(with_added_tokens=True))
    more = [token(name, self.vocab_size + n) for n, name in enumerate(names)]
    document = {**self.document, 'added_tokens': [*self.document['added_tokens'], *more]}
    contents = {**self._files.contents, TOKENIZER: _text(document)}
    made = _made(contents, self._files.folder, self.chat_template)
    if any(made.specials[t['content']] != t['id'] for t in more):
      raise BadInput(f'{self._where}: has ids without a token, which new ones would take; add none')
    return made

  def __reduce__(self):
    return _made, (self._files.contents, self._files.folder, self.chat_template)

  def __repr__(self) -> str:
    return f'TokenizerJson(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})'

  # --- reading ---------------------------------------------------------------------------------

  def _read(self, document: Mapping[str, Any] | None = None) -> Any:
    """What encodes, by tokenizer.json as it came or by another form of it."""
    try:
      from tokenizers import Tokenizer
    except ImportError:
      raise BadInput(
        f"{self._where}: needs the package tokenizers; pip install 'llm_jax[hf]'"
      ) from None
    data = self._files.contents[TOKENIZER] if document is None else _text(document)
    try:
      reader = Tokenizer.from_str(data.decode())
    except Exception as error:  # the library has no narrower one
      raise BadInput(f'{self._where} cannot be read: {error}; copy it again') from None
    # What a file says of these was for somebody's batches, or for training.
    reader.no_truncation()
    reader.no_padding()
    if getattr(reader.model, 'dropout', None) is not None:
      reader.model.dropout = None
    reader.encode_special_tokens = True
    return reader

  @functools.cached_property
  def _parser(self) -> Any:
    """Reads names of control tokens as such."""
    reader = self._read(self.document)
    reader.encode_special_tokens = False
    return reader

  @functools.cached_property
  def _continuing(self) -> Any:
    """Reads a text that follows another, which gets no prefix."""
    return self._read(without_prefix(self.document)) if self._prefix else self._reader

  def _batch(self, reader: Any, texts: Sequence[str], threads: int | None) -> list[list[int]]:
    for i, text in enumerate(texts):
      check_unicode(text, f'text {i}')
    one = lambda text: reader.encode(text, add_special_tokens=False).ids
    if threads is None:
      # The list may be a view of another kind; the library takes lists.
      found = [e.ids for e in reader.encode_batch_fast([*texts], add_special_tokens=False)]
    elif threads == 1:
      found = [*map(one, texts)]
    else:
      with ThreadPoolExecutor(threads) as pool:
        found = [*pool.map(one, texts)]
    for i, ids in enumerate(found):
      if not self._control.isdisjoint(ids):
        found[i] = self._spelled(reader, texts[i])
    return found

  def _spelled(self, reader: Any, text: str) -> list[int]:
    """Ids of a text that the library makes a control token of, though it was told not to.

    It has them in its vocabulary as well, and some models (Unigram) find them there. So such a text
    is cut behind the first character of each.
    """
    encoding = reader.encode(text, add_special_tokens=False)
    spans = [encoding.offsets[n] for n, i in enumerate(encoding.ids) if i in self._control]
    if not spans:
      return encoding.ids
    if whole := next((text[a:b] for a, b in spans if b - a < 2), None):
      raise BadInput(f'{self._where}: a text has {whole!r}, a control token here; take it out')
    cuts = [0, *(a + 1 for a, _ in spans), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(cuts)]
    readers = [reader] + [self._continuing] * len(spans)
    return [i for part in map(self._spelled, readers, parts) for i in part]

  # --- what the files say ----------------------------------------------------------------------

  def _id_of(self, role: str) -> int | None:
    name = self._files.names.get(role)
    found = None if name is None else self._reader.token_to_id(name)
    if name is not None and found is None:
      raise BadInput(f'{self._where}: has no token {name!r}, which {CONFIG} gives as {role}')
    return found

  def _begin(self) -> tuple[int | None, tuple[int, ...]]:
    """`bos_id` and `begin`: what is named, and what the post-processor writes before a text."""
    bos, adds = self._id_of('bos_token'), self._files.adds_bos()
    encoding = self._reader.encode('a')
    text = next((n for n, s in enumerate(encoding.special_tokens_mask) if not s), 0)
    begin = tuple(encoding.ids[:text])
    if bos is None and len(begin) == 1:
      bos = begin[0]
    if adds is False:
      begin = tuple(i for i in begin if i != bos)
    if adds and bos is not None and bos not in begin:
      begin = (bos, *begin)
    return bos, begin

  def _stops(self) -> tuple[int, ...]:
    eos = self._id_of('eos_token')
    listed = self._files.stops()
    for file, i in listed:
      if not 0 <= i < self.vocab_size or i in self.gaps:
        raise BadInput(f'{self._where}: has no token {i}, an eos_token_id of {file}')
    return tuple(dict.fromkeys([*([] if eos is None else [eos]), *(i for _, i in listed)]))

  def _prefixed(self) -> tuple[str, frozenset[int], tuple[str, ...]]:
    """When a prefix is written, found by trial, the ids after which it is, and what that loses.

    'first': before a text that begins the string; 'always': after each added token too; or ''.
    """
    ids = lambda text: self._reader.encode(text, add_special_tokens=False).ids
    begins = lambda some: b''.join(self._bytes[i] for i in some).startswith(b' ')
    if not begins(ids('a')):
      return '', frozenset(), ()
    self._reader.encode_special_tokens = False
    always = any(begins(ids(f'{name}a')) for name in self.specials)
    self._reader.encode_special_tokens = True
    where = 'a blank at the start' + ', or after an added token,' * always
    lost = (f'{where} is dropped',) if ids(' a') == ids('a') else ()
    if always:
      return 'always', frozenset(self._added_ids), lost
    return 'first', frozenset(self.begin[-1:]), lost


def _made(contents: dict[str, bytes], folder: str, chat_template: str | None) -> TokenizerJson:
  """A tokenizer again, after it was pickled."""
  tokenizer = TokenizerJson(Files(contents, folder))
  tokenizer.chat_template = chat_template
  return tokenizer


def _text(value: Any) -> bytes:
  return (json.dumps(value, indent=2) + '\n').encode()
