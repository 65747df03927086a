"""What the page of tokens asks: the pieces of a text or a conversation, and which were surprising.

Nothing that is typed becomes a control token. So a token with such an id was made by the template.
"""

from collections.abc import Sequence
from typing import Any

from llm_jax.sampling.request import Request
from llm_jax.serving import messages
from llm_jax.serving.conversation import Conversation
from llm_jax.serving.driver import Driver
from llm_jax.serving.errors import invalid
from llm_jax.serving.fields import Fields, finite
from llm_jax.text import chat
from llm_jax.text.spans import spans
from llm_jax.types import BadInput

MOST = 8192  # tokens of which log-probabilities are computed
WINDOW = 1024  # tokens that a model reads at a time for them, at most
WAIT = 15.0  # seconds between two looks at a driver that says nothing

JSON = dict[str, Any]


def tokens(conversation: Conversation, body: Fields) -> JSON:
  """The response to a body with `text` or `messages`, but for its log-probabilities.

  A piece is a string, or an array of bytes where a token ends in the middle of a character.

  Args:
    conversation: of the model.
    body: as it was sent.

  Raises:
    ApiError: naming the field.
  """
  tokenizer, text, trained = conversation.tokenizer, body.get('text'), None
  if (text is None) == (body.get('messages') is None):
    raise invalid('text', 'give either text or messages')
  if text is None:
    try:
      found = chat.pieces(messages.messages(body), template=conversation.template)
      ids, trained = chat.encode(tokenizer, found)
    except BadInput as error:
      raise invalid('messages', str(error).removeprefix('chat: ')) from None
  elif isinstance(text, str):
    ids = tokenizer.encode(text)
  else:
    raise body.wrong('text', 'give a string')
  controls = set(tokenizer.specials.values())
  return {
    'object': 'tokens',
    'ids': ids,
    'pieces': [*map(_piece, spans(tokenizer, ids))],
    'control': [n for n, i in enumerate(ids) if i in controls],
    'trained': trained,
    'logprobs': None,
    'changes': list(tokenizer.normalizes),
    'vocab_size': tokenizer.vocab_size,
  }


def _piece(data: bytes) -> str | list[int]:
  try:
    return data.decode()
  except UnicodeDecodeError:
    return list(data)


async def logprobs(driver: Driver, ids: Sequence[int], length: int) -> list[float | None]:
  """log p of each id in nats; None of the first, which nothing predicts, and behind MOST.

  A text that is longer than the model reads is read in windows, one after the other, each of which
  begins in the middle of the one before.

  Args:
    driver: of the model.
    ids: of a text.
    length: positions of the model, of which one is for the answer that nobody asked for.

  Raises:
    ApiError: the model is busy, or has failed.
  """
  width, known = min(WINDOW, length - 1), min(len(ids), MOST)
  found: list[float | None] = [None] * min(known, 1)
  start = 0
  while len(found) < known:
    window = ids[start : min(start + width, known)]
    said = await _scored(driver, window)  # of all its tokens but the first
    found += said[len(found) - start - 1 :]
    start += width // 2
  return found + [None] * (len(ids) - known)


async def _scored(driver: Driver, ids: Sequence[int]) -> list[float]:
  request = Request(prompt=ids, max_new=1, temperature=0.0, scores_prompt=True)
  reading = await driver.submit([request])
  said: list[float] = []
  try:
    while reading.open or not said:
      for _, event in await reading.read(WAIT):
        said += [finite(logp) for logp, _ in event.prompt or ()]
  finally:
    reading.close()
  return said
