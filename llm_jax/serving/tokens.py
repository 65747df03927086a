"""What the page of tokens asks: the pieces of a text or a conversation, and which were surprising.

Nothing that is typed becomes a control token. So a token with such an id was made by the template.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from llm_jax.losses.logprobs import score
from llm_jax.serving import messages
from llm_jax.serving.conversation import Conversation
from llm_jax.serving.errors import invalid
from llm_jax.serving.fields import Fields, finite
from llm_jax.text import chat
from llm_jax.text.spans import spans
from llm_jax.types import BadInput

MOST = 8192  # tokens of which log-probabilities are computed
WINDOW = 1024  # tokens that a model reads at a time for them, at most
NARROWEST = 64

LogProbs = Callable[[Sequence[int]], list[float | None]]


def tokens(conversation: Conversation, body: Fields, logprobs: LogProbs) -> dict[str, Any]:
  """The response to a body with `text` or `messages`, and perhaps `logprobs`.

  A piece is a string, or an array of bytes where a token ends in the middle of a character.

  Args:
    conversation: of the model.
    body: as it was sent.
    logprobs: of each id, given those before it.

  Raises:
    ApiError: naming the field.
  """
  tokenizer, wanted = conversation.tokenizer, body.flag('logprobs')
  text, trained = body.get('text'), None
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
  begin = [] if trained else list(tokenizer.begin)
  said = logprobs([*begin, *ids])[len(begin) :] if wanted else None
  return {
    'object': 'tokens',
    'ids': ids,
    'pieces': [*map(_piece, spans(tokenizer, ids))],
    'control': [n for n, i in enumerate(ids) if i in controls],
    'trained': trained,
    'logprobs': said,
    'changes': list(tokenizer.normalizes),
    'vocab_size': tokenizer.vocab_size,
  }


def _piece(data: bytes) -> str | list[int]:
  try:
    return data.decode()
  except UnicodeDecodeError:
    return list(data)


class Surprise:
  """log p of each token of a text, under the model of an engine.

  Args:
    engine: that runs.
    mesh: where it is.
  """

  def __init__(self, engine: Any, mesh: Any) -> None:
    self._engine, self._mesh = engine, mesh
    run = lambda model, params, batch: score(model, params, batch)
    self._score = jax.jit(run, static_argnums=0)

  def __call__(self, ids: Sequence[int]) -> list[float | None]:
    """Of each id, in nats; None of the first, which nothing predicts, and behind MOST.

    A text that is longer than the model reads is read in windows, each of which begins in the
    middle of the one before.
    """
    width = min(WINDOW, self._engine.length)
    found: list[float | None] = []
    start, known = 0, min(len(ids), MOST)
    while len(found) < known:
      some = ids[start : min(start + width, known)]
      found += self._window(some, width)[len(found) - start :]
      start += width // 2
    return [None, *found[1:], *[None] * (len(ids) - known)] if ids else []

  def _window(self, ids: Sequence[int], most: int) -> list[float | None]:
    width = NARROWEST
    while width < len(ids):
      width *= 2
    batch = {name: np.zeros((1, min(width, most)), np.int32) for name in ('tokens', 'segment')}
    batch['tokens'][0, : len(ids)], batch['segment'][0, : len(ids)] = ids, 1
    batch['position'] = np.arange(min(width, most), dtype=np.int32)[None]
    model, params = self._engine.decoding
    with jax.set_mesh(self._mesh):
      logp_L = np.asarray(self._score(model, params, batch))[0, : len(ids)]
    return [finite(value) for value in logp_L.tolist()]
