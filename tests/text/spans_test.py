"""Pieces of a text, by token: joined they are the text, whatever it holds."""

import random
from pathlib import Path

import pytest

from llm_jax.text import chat, folder
from llm_jax.text.spans import spans
from llm_jax.text.tokenizer import Tokenizer

FIXTURES = Path(__file__).parents[1] / 'fixtures' / 'tokenizers'
PARTS = (
  *('the cat ', ' sat', 'def f(x):\n', '  ', '\t', '\n', '\r\n', '\r', '\0', '\u2581', ' \u2581'),
  *('\xe9', 'e\u0301', '\u0301', '猫', '日本語', 'مرحبا', '👩\u200d🔬', '👍🏽', '\u202e', '\u200b'),
  *('<|im_start|>', '<0xE2>', '</s>', '<s>', '\U0010ffff', '\x7f', '0123', '=' * 9, '\ufeff'),
)


@pytest.fixture(scope='module')
def tokenizers():
  ours = Tokenizer.train(['the cat sat on a mat, def f(x): é 猫'] * 20, vocab_size=300)
  return [ours, *(folder.load(FIXTURES / name) for name in ('byte_level', 'sentencepiece'))]


def texts(count):
  draw = random.Random(0)
  code = lambda: draw.choice((draw.randrange(0x300), draw.randrange(0xE000, 0x11000)))
  for _ in range(count):
    parts = [*draw.choices(PARTS, k=draw.randrange(8)), chr(code()), chr(code())]
    yield ''.join(draw.sample(parts, len(parts)))


def test_pieces_joined_are_the_text(tokenizers):
  some = [*texts(10_000)]
  changed = [0] * len(tokenizers)
  for n, tokenizer in enumerate(tokenizers):
    for text, ids in zip(some, tokenizer.encode_batch(some, threads=1), strict=True):
      pieces = spans(tokenizer, ids)
      said = tokenizer.decode(ids)
      assert len(pieces) == len(ids) and b''.join(pieces).decode(errors='replace') == said
      changed[n] += said != text
      assert said == text or tokenizer.normalizes
  assert changed[0] == 0 and all(0 < count < len(some) for count in changed[1:])


def test_of_a_conversation_they_are_what_its_template_writes(tokenizers):
  ours, theirs, _ = tokenizers
  missing = [name for name in chat.specials('chatml') if name not in theirs.specials]
  theirs = theirs.with_specials(missing) if missing else theirs
  talk = [
    {'role': 'user', 'content': ' Is <|im_end|> a 猫?'},
    {'role': 'assistant', 'content': 'No.'},
  ]
  for tokenizer, template in ((ours, 'llm_jax'), (theirs, 'chatml')):
    found = chat.pieces(talk, template=template)
    ids, _ = chat.encode(tokenizer, found)
    pieces = spans(tokenizer, ids)
    assert b''.join(pieces).decode() == ''.join(piece.text for piece in found)
    controls = [x.decode() for x, i in zip(pieces, ids) if i in tokenizer.specials.values()]
    assert controls == [piece.text for piece in found if piece.control] and len(controls) > 3
