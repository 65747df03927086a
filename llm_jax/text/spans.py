"""Which bytes of a text each of its tokens stands for; joined, they are the text."""

from collections.abc import Sequence

from llm_jax.types import Tokenizer


def spans(tokenizer: Tokenizer, ids: Sequence[int]) -> list[bytes]:
  r"""The bytes of each token, as `decode` has them; of a control token its name.

  A token may end in the middle of a character. Where a tokenizer changes a text (`normalizes`),
  they are those of what became of it.

  >>> from llm_jax.text.tokenizer import Tokenizer
  >>> tokenizer = Tokenizer.train(['the cat'], vocab_size=280)
  >>> spans(tokenizer, [tokenizer.bos_id, *tokenizer.encode('a猫')])
  [b'<|begin_of_text|>', b'a', b'\xe7', b'\x8c', b'\xab']

  Args:
    tokenizer: of either make.
    ids: of a whole text, or of a conversation with its control tokens.
  """
  found, before = [], None
  controls = set(tokenizer.specials.values())
  for i in ids:
    data = tokenizer.bytes_of(i)
    # A blank that the tokenizer wrote before a text is no part of it.
    if data.startswith(b' ') and i not in controls and (before is None or before in controls):
      said = tokenizer.decode([i], after=before)
      data = data if said.startswith(' ') else data[1:]
    found.append(data)
    before = i
  return found


def signs(data: bytes) -> str:
  r"""Bytes of a token for people: blanks and line ends as signs, and what is no character by bytes.

  >>> signs(b' a\n'), signs('é'.encode()[:1])
  ('·a↵\n', '<0xC3>')
  """
  try:
    text = data.decode()
  except UnicodeDecodeError:
    text = ''.join(chr(b) if b < 0x80 else f'<0x{b:02X}>' for b in data)
  return text.replace(' ', '·').replace('\n', '↵\n').replace('\t', '→')
