"""The log-probabilities of texts behind contexts: every context is read once.

A question has a context and several texts that may follow it. The context is read into a cache;
each text then goes on from there, so it costs its own tokens alone, and one of a single token costs
nothing but a look at the logits. Examples that begin the contexts of many questions are read once
for all of them. Rows of similar lengths share a batch, whose shapes are few.
"""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.losses.logprobs import read_hidden
from llm_jax.parallel.mesh import batch_shards, constrain, shard_batch
from llm_jax.types import Array, BadInput, Model, Params

Ids = tuple[int, ...]
TOKENS = 2048  # of a batch, padding included, for each device that shares batches
SHARED = 32  # least tokens of a beginning that is read apart for all that share it
SAVED = 1024  # least tokens that this saves


class Text(NamedTuple):
  """What may follow a context.

  Attributes:
    ids: its tokens, at least one.
    skip: how many of them are not scored, since they are the context's.
  """

  ids: Ids
  skip: int = 0


class Request(NamedTuple):
  """A context and what may follow it.

  Attributes:
    context: ids, at least one; the begin of a document among them.
    texts: what is scored.
  """

  context: Ids
  texts: tuple[Text, ...]


class Scored(NamedTuple):
  """A text behind its context.

  Attributes:
    logp: sum of the log-probabilities of its tokens, in nats.
    greedy: whether each of them is the likeliest one.
  """

  logp: float
  greedy: bool


class Likelihood:
  """Scores requests under a model; programs are compiled once for each shape of a batch.

  Attributes:
    shapes: of the batches so far: what was compiled.
    tokens: ids that went through the model, and how many places batches had for them.
  """

  def __init__(self, model: Model, mesh: Any, tokens: int = TOKENS) -> None:
    """`tokens` is how many places a batch has, for each device that shares it."""
    self._model, self._mesh = model, mesh
    self._shards = batch_shards(mesh)
    self._tokens = tokens * self._shards
    self._programs = _programs(model)
    self.shapes: set[tuple[Any, ...]] = set()
    self.tokens = np.zeros(2, int)

  def __call__(
    self, params: Params, requests: Sequence[Request], known: Collection[int] = ()
  ) -> Iterator[tuple[int, list[Scored]]]:
    """(number of a request, scores of its texts), as batches come back, in an order of their own.

    Batches are those of all requests, and one whose members are all `known` is left out. So what
    is scored has the same last digits whether others are known or not.

    Raises:
      BadInput: a request without a context or an empty text, or one that the model has no room for.
    """
    self._check(requests)
    for group in _sharing(requests):
      batches = [
        (rows, members)
        for rows, members in self._batches(requests, group)
        if not all(i in known for i in members)
      ]
      if not batches:
        continue
      beginning = self._beginning(params, requests[group.members[0]].context[: group.shared])
      for rows, members in batches:
        some = [requests[i] for i in members]
        for i, scored in self._batch(params, beginning, group.shared, some, rows):
          yield members[i], scored

  def _check(self, requests: Sequence[Request]) -> None:
    room = self._model.shape.max_length
    for request in requests:
      if not request.context or not all(len(text.ids) > text.skip for text in request.texts):
        raise BadInput('likelihood: a context or a text is empty')
      longest = max((len(text.ids) for text in request.texts), default=1)
      if len(request.context) + longest - 1 > room:
        raise BadInput(
          f'likelihood: {len(request.context)} tokens and a text of {longest} exceed the {room} '
          'positions of the model'
        )

  def _batches(
    self, requests: Sequence[Request], group: '_Group'
  ) -> Iterator[tuple[int, list[int]]]:
    """Rows of a batch, and members of a group that have similar lengths, the longest first."""
    left = lambda i: len(requests[i].context) - group.shared
    longest = lambda i: max((len(text.ids) for text in requests[i].texts), default=1)
    order = sorted(group.members, key=lambda i: (-bucket(left(i)), -longest(i)))
    start = 0
    while start < len(order):
      width = bucket(left(order[start]))
      size = self._rows(group.shared + width + longest(order[start]) - 1, len(order) - start)
      yield size, order[start : start + size]
      start += size

  def _rows(self, length: int, most: int) -> int:
    """Rows of a batch: of the last one, which holds `most`, perhaps a fourth or a sixteenth."""
    rows = self._shards << (max(1, self._tokens // bucket(length) // self._shards).bit_length() - 1)
    while rows >= 4 * self._shards and rows // 4 >= most:
      rows //= 4
    return rows

  def _beginning(self, params: Params, ids: Ids) -> Any:
    """The cache of one row that holds what contexts of a group begin with; None for nothing."""
    if not ids:
      return None
    rows = self._shards  # all the same, so that each device has what its rows begin with
    tokens, length = _padded([ids] * rows, rows, bucket(len(ids)))
    self._count('begin', tokens.shape, length)
    placed = shard_batch({'tokens': tokens, 'length': length}, self._mesh)
    return self._programs.begin(params, placed['tokens'], placed['length'])

  def _batch(
    self, params: Params, beginning: Any, shared: int, requests: Sequence[Request], rows: int
  ) -> Iterator[tuple[int, list[Scored]]]:
    """(number, scores) of each request of a batch."""
    lefts = [request.context[shared:] for request in requests]
    width = bucket(max(len(ids) for ids in lefts))
    # The k-th longest texts of all requests go together, so that they have similar lengths.
    ranked = [sorted(range(len(r.texts)), key=lambda j: -len(r.texts[j].ids)) for r in requests]
    columns = [
      [(i, order[k]) for i, order in enumerate(ranked) if k < len(order)]
      for k in range(max(map(len, ranked), default=0))
    ]
    widths = [
      bucket(max(len(requests[i].texts[j].ids) for i, j in column), 1) for column in columns
    ]
    room = bucket(max(widths, default=1) - 1, 0)
    # A row without a question reads a token all the same, since attention needs one.
    tokens, length = _padded([*lefts, *[(0,)] * (rows - len(lefts))], rows, width)
    slots = bucket((bucket(shared) if shared else 0) + width + room)
    self._count('context', (*tokens.shape, slots, shared > 0), length[: len(lefts)])
    placed = shard_batch({'tokens': tokens, 'length': length}, self._mesh)
    cache, last = self._programs.context(
      params, beginning, placed['tokens'], placed['length'], slots=slots
    )
    results: list[list[Scored | None]] = [[None] * len(request.texts) for request in requests]
    waiting = []
    for column, wide in zip(columns, widths, strict=True):
      ids: list[Ids] = [()] * rows
      skip = np.zeros(rows, np.int32)
      for i, j in column:
        ids[i], skip[i] = requests[i].texts[j]
      tokens, length = _padded(ids, rows, wide)
      self._count('text', (*tokens.shape, slots), np.maximum(length - 1, 0))
      placed = shard_batch({'tokens': tokens, 'length': length, 'skip': skip}, self._mesh)
      waiting.append((column, self._programs.text(params, cache, last, **placed)))
    for column, scores in waiting:
      logp, greedy = jax.device_get(scores)
      for i, j in column:
        results[i][j] = Scored(float(logp[i]), bool(greedy[i]))
    for i, scored in enumerate(results):
      yield i, [one for one in scored if one is not None]

  def _count(self, what: str, shape: Any, length: np.ndarray) -> None:
    self.shapes.add((what, *shape))
    self.tokens += int(length.sum()), int(np.prod(shape[:2]))


class _Group(NamedTuple):
  """Requests whose contexts begin with the same ids.

  Attributes:
    members: their numbers.
    shared: how many ids.
  """

  members: list[int]
  shared: int


def _sharing(requests: Sequence[Request]) -> list[_Group]:
  """Groups of requests by what their contexts begin with, if that is worth reading apart.

  Contexts in the order of their ids stand beside those that they share most with. Of each context
  one token is left, since its hidden state predicts what follows.
  """
  order = sorted(range(len(requests)), key=lambda i: requests[i].context)
  shared = [
    _common(requests[a].context[:-1], requests[b].context[:-1])
    for a, b in itertools.pairwise(order)
  ]
  groups, alone, start = [], [], 0
  while start < len(order):
    end, least = start + 1, len(requests[order[start]].context) - 1
    # Goes on while reading it apart saves more than what the others lose of their beginning.
    while end < len(order) and shared[end - 1] >= max(SHARED, least // 2):
      least = min(least, shared[end - 1])
      end += 1
    if least >= SHARED and (end - start - 1) * least >= SAVED:
      groups.append(_Group(order[start:end], least))
    else:
      alone += order[start:end]
    start = end
  return groups + ([_Group(sorted(alone), 0)] if alone else [])


def _common(a: Ids, b: Ids) -> int:
  """How many ids two sequences begin with together."""
  both = enumerate(zip(a, b, strict=False))
  return next((i for i, (x, y) in both if x != y), min(len(a), len(b)))


def bucket(length: int, least: int = 8) -> int:
  """The width that rows of `length` are padded to, so that few widths are compiled.

  >>> [bucket(n) for n in (1, 9, 17, 33, 50, 100, 1000)]
  [8, 16, 24, 48, 64, 128, 1024]
  >>> bucket(1, least=1), bucket(2, least=1)
  (1, 8)
  """
  if length <= least:
    return least
  power = max(8, 1 << (length - 1).bit_length())
  return power * 3 // 4 if length <= power * 3 // 4 and power > 16 else power


def _padded(ids: Sequence[Ids], rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
  """Ids [R, L], padded on the right with 0, and how many of each row are real [R]."""
  tokens = np.zeros((rows, width), np.int32)
  length = np.zeros(rows, np.int32)
  for row, some in enumerate(ids):
    tokens[row, : len(some)], length[row] = some, len(some)
  return tokens, length


class _Programs(NamedTuple):
  begin: Callable[..., Any]
  context: Callable[..., Any]
  text: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def _programs(model: Model) -> _Programs:
  """What is compiled, once for each model."""

  def extend(params: Params, cache: Any, tokens_RL: Array, length_R: Array) -> Any:
    real_RL = (jnp.arange(tokens_RL.shape[1]) < length_R[:, None]).astype(jnp.int32)
    position_RL = cache.index[:, None] + jnp.cumsum(real_RL, axis=1) - real_RL
    return model.apply(params, tokens_RL, position_RL, real_RL, cache, method='hidden')

  def begin(params: Params, tokens_RL: Array, length_R: Array) -> Any:
    return extend(params, model.make_cache(*tokens_RL.shape), tokens_RL, length_R)[1]

  def context(
    params: Params, beginning: Any, tokens_RL: Array, length_R: Array, *, slots: int
  ) -> tuple[Any, Array]:
    rows = tokens_RL.shape[0]
    if beginning is None:
      cache = model.make_cache(rows, slots)
    else:
      cache = beginning.grow(slots).repeat(rows // beginning.index.shape[0])
    hidden_RLD, cache = extend(params, cache, tokens_RL, length_R)
    last_R1 = jnp.maximum(length_R - 1, 0)[:, None]
    return cache, jnp.take_along_axis(hidden_RLD, last_R1[..., None], axis=1)

  def text(
    params: Params, cache: Any, last_R1D: Array, tokens: Array, length: Array, skip: Array
  ) -> tuple[Array, Array]:
    hidden_RLD = last_R1D
    if tokens.shape[1] > 1:
      after_RLD, _ = extend(params, cache, tokens[:, :-1], length - 1)
      hidden_RLD = jnp.concatenate([last_R1D, after_RLD], axis=1)
    logp_RL, greedy_RL = read_hidden(model, params, hidden_RLD, (tokens,), 1.0, _read)
    place_L = jnp.arange(tokens.shape[1])
    scored_RL = (place_L >= skip[:, None]) & (place_L < length[:, None])
    logp_R = jnp.where(scored_RL, logp_RL, 0.0).sum(1)
    return constrain(logp_R, None), constrain((greedy_RL | ~scored_RL).all(1), None)

  return _Programs(jax.jit(begin), jax.jit(context, static_argnames='slots'), jax.jit(text))


def _read(logits_V: Array, target: Array) -> tuple[Array, Array]:
  """The log-probability of a target, and whether it is the likeliest."""
  chosen = jnp.take_along_axis(logits_V, target[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits_V, axis=-1), logits_V.argmax(-1) == target
