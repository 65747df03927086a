"""The log-probabilities of texts behind contexts: what they share is read once.

A question has a context and several texts that may follow it. Texts branch off their context inside
a row, see it and themselves, and not each other; contexts that begin alike branch as well. Many
such trees share a row, so hardly any place of a batch is padding, and few shapes are compiled. A
long beginning of many questions, such as examples, is read into a cache that their rows go on from.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.evals import tree_rows
from llm_jax.evals.tree_rows import Span
from llm_jax.losses.logprobs import read_hidden
from llm_jax.parallel.mesh import batch_shards, constrain, platform, shard_batch
from llm_jax.types import Array, BadInput, Model, Params

Ids = tuple[int, ...]
ROW = 256  # tokens of a row; those of a longer text have more
TOKENS = 1024  # of a batch, for each device that shares batches
ON_ACCELERATORS = 16  # times as many there
SHARED = 32  # least tokens of a beginning that is read into a cache
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

  def __init__(self, model: Model, mesh: Any, tokens: int | None = None, row: int = ROW) -> None:
    """`tokens`: places of a batch, for each device; `row`: how many of them a row has."""
    self._model, self._mesh, self._row = model, mesh, row
    self._shards = batch_shards(mesh)
    default = TOKENS * (1 if platform() == 'cpu' else ON_ACCELERATORS)
    self._tokens = default if tokens is None else tokens
    self._programs = _programs(model)
    self.shapes: set[tuple[Any, ...]] = set()
    self.tokens = np.zeros(2, int)

  def __call__(
    self, params: Params, requests: Sequence[Request], known: Collection[int] = ()
  ) -> Iterator[tuple[int, list[Scored]]]:
    """(number of a request, scores of its texts), as they are found, in an order of their own.

    Batches are those of all requests, and one whose requests are all `known` is left out; so what
    is scored has the same last digits whether others are known or not. Of a known request nothing
    is given.

    Raises:
      BadInput: a request without a context or an empty text, or one that the model has no room for.
    """
    self._check(requests)
    spans, owners = [], []
    for i, request in enumerate(requests):
      context = np.array(request.context, np.int32)
      for j, text in enumerate(request.texts):
        ids = np.concatenate([context, np.array(text.ids, np.int32)])
        spans.append(Span(ids, len(context) + text.skip, len(owners)))
        owners.append((i, j))
    left = np.array([len(span.ids) - span.first for span in spans])
    logp, greedy = np.zeros(len(spans)), np.ones(len(spans), bool)
    texts = [len(request.texts) for request in requests]
    first = np.cumsum([0, *texts])[:-1]
    yield from ((i, []) for i, count in enumerate(texts) if not count and i not in known)
    of_known = np.array([i in known for i, _ in owners], bool)
    for rows, (logp_RN, greedy_RN) in self._run(params, spans, of_known):
      there = rows.owner >= 0
      owner = rows.owner[there]
      np.add.at(logp, owner, logp_RN[there])
      np.logical_and.at(greedy, owner, greedy_RN[there])
      np.subtract.at(left, owner, 1)
      for number in np.unique(owner[(left[owner] == 0) & ~of_known[owner]]).tolist():
        i, _ = owners[number]
        texts[i] -= 1
        if not texts[i]:
          part = range(first[i], first[i] + len(requests[i].texts))
          yield i, [Scored(float(logp[k]), bool(greedy[k])) for k in part]

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

  def _run(
    self, params: Params, spans: Sequence[Span], known: np.ndarray
  ) -> Iterator[tuple[tree_rows.Rows, tuple[np.ndarray, np.ndarray]]]:
    """Batches, and the log-probability of each scored token, and whether it is the likeliest."""
    waiting: list[Any] = []  # one batch is prepared while the one before is computed
    for ids, some in self._batches(spans):
      wanted = [rows for rows in some if not known[rows.owner[rows.owner >= 0]].all()]
      beginning = self._beginning(params, ids) if len(ids) and wanted else None
      for rows in wanted:
        waiting.append((rows, self._launch(params, beginning, rows)))
        if len(waiting) > 1:
          yield _fetched(*waiting.pop(0))
    yield from (_fetched(*one) for one in waiting)

  def _launch(self, params: Params, beginning: Any, rows: tree_rows.Rows) -> Any:
    slots = 0 if beginning is None else beginning.segment.shape[1]
    self._count('rows', (*rows.tokens.shape, rows.source.shape[1], slots), rows.segment)
    fields = {name: x for name, x in rows._asdict().items() if name != 'owner'}
    placed = shard_batch(_of_host(fields), self._mesh)
    return self._programs.rows(params, beginning, **placed)

  def _batches(self, spans: Sequence[Span]) -> Iterator[tuple[np.ndarray, list[tree_rows.Rows]]]:
    """Ids that are read first, or none, and the batches that go on from them."""
    # Where the longest row of a batch moves all positions, a long text has a batch of its own.
    fixed, nothing = self._model.shape.moves_after, np.zeros(0, np.int32)
    apart = {span.owner for span in spans if fixed is not None and len(span.ids) - 1 > fixed}
    for span in spans:
      if span.owner in apart:
        yield nothing, [*self._rows(tree_rows.trees([span], [0], 0, self._row), [1])]
    for group in _sharing([span for span in spans if span.owner not in apart], self._row):
      made = tree_rows.trees(group.spans, group.shared, group.begun, self._row)
      yield group.spans[0].ids[: group.begun], [*self._rows(made, None)]

  def _rows(
    self, made: Sequence[tree_rows.Tree], counts: Sequence[int] | None
  ) -> Iterator[tree_rows.Rows]:
    """Trees of similar lengths as batches; `counts` says how many rows they may have."""
    by_length: dict[int, list[tree_rows.Tree]] = {}
    for tree in made:
      by_length.setdefault(bucket(max(self._row, len(tree.tokens))), []).append(tree)
    for length, some in by_length.items():
      full = max(1, self._tokens // length)
      sizes = [self._shards * count for count in counts or sorted({full, 1})]
      rows = tree_rows.packed(some, length)
      for part, shorter in tree_rows.divided(rows, length):
        yield from tree_rows.batches(part, sizes, shorter)

  def _beginning(self, params: Params, ids: np.ndarray) -> Any:
    """The cache of rows that hold what spans of a group begin with, one for each device."""
    tokens = np.zeros((self._shards, bucket(len(ids))), np.int32)
    tokens[:, : len(ids)] = ids
    segment = (np.arange(tokens.shape[1]) < len(ids)).astype(np.int32) + np.zeros_like(tokens)
    self._count('begin', tokens.shape, segment)
    placed = shard_batch(_of_host({'tokens': tokens, 'segment': segment}), self._mesh)
    return self._programs.begin(params, **placed)

  def _count(self, what: str, shape: Any, segment: np.ndarray) -> None:
    self.shapes.add((what, *shape))
    self.tokens += int((segment > 0).sum()), segment.size


def _fetched(rows: tree_rows.Rows, found: Any) -> tuple[tree_rows.Rows, Any]:
  return rows, jax.device_get(found)


def _of_host(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The rows that this host reads."""
  hosts, host = jax.process_count(), jax.process_index()
  part = lambda x: x[host * len(x) // hosts : (host + 1) * len(x) // hosts]
  return {name: part(x) for name, x in fields.items()}


@dataclasses.dataclass(frozen=True)
class _Group:
  """Spans, sorted, of which the first `begun` ids are read apart; see `tree_rows.ordered`."""

  spans: Sequence[Span]
  shared: Sequence[int]
  begun: int


def _sharing(spans: Sequence[Span], row: int) -> Iterator[_Group]:
  """Groups of spans by what they begin with, if that is worth reading apart; the others as one."""
  made, shared = tree_rows.ordered(spans)
  alone: list[Span] = []
  start = 0
  while start < len(made):
    end, least = start + 1, made[start].first - 1
    # Goes on while what the others lose of their beginning is less than half of it.
    while end < len(made) and min(shared[end], made[end].first - 1) >= max(SHARED, least // 2):
      least = min(least, shared[end], made[end].first - 1)
      end += 1
    new = sum(len(made[i].ids) - 1 - shared[i] for i in range(start + 1, end))
    rows = new / max(row - least, 1)  # that would each hold the beginning
    if least >= SHARED and (rows - 1) * least >= SAVED:
      yield _Group(made[start:end], [least, *shared[start + 1 : end]], least)
    else:
      alone += made[start:end]
    start = end
  if alone:
    yield _Group(*tree_rows.ordered(alone), 0)


def bucket(length: int, least: int = 8) -> int:
  """The width that rows of `length` are padded to, so that few widths are compiled.

  >>> [bucket(n) for n in (1, 9, 17, 33, 50, 100, 1000)]
  [8, 16, 24, 48, 64, 128, 1024]
  """
  if length <= least:
    return least
  power = max(8, 1 << (length - 1).bit_length())
  return power * 3 // 4 if length <= power * 3 // 4 and power > 16 else power


class _Programs(NamedTuple):
  begin: Callable[..., Any]
  rows: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def _programs(model: Model) -> _Programs:
  """What is compiled, once for each model."""

  def begin(params: Params, tokens: Array, segment: Array) -> Any:
    position_RL = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    cache = model.make_cache(*tokens.shape)
    return model.apply(params, tokens, position_RL, segment, cache, method='hidden')[1]

  def rows(
    params: Params,
    beginning: Any,
    tokens: Array,
    position: Array,
    segment: Array,
    until: Array,
    source: Array,
    target: Array,
  ) -> tuple[Array, Array]:
    cache = None
    if beginning is not None:
      count, length = tokens.shape
      slots = beginning.segment.shape[1] + length
      cache = beginning.grow(slots).repeat(count // len(beginning.index))
      # Tokens of the beginning are segment 1, which all later ones see.
      segment = jnp.where(segment > 0, segment + 1, 0)
      place_RS = jnp.arange(slots) - cache.index[:, None]
      later_RS = jnp.take_along_axis(until + 1, jnp.clip(place_RS, 0, length - 1), axis=1)
      until = jnp.where(place_RS < 0, slots + 1, later_RS)
    hidden_RLD, _ = model.apply(params, tokens, position, segment, cache, until, method='hidden')
    hidden_RND = jnp.take_along_axis(hidden_RLD, source[..., None], axis=1)
    found = read_hidden(model, params, hidden_RND, (target,), 1.0, _read)
    logp_RN, greedy_RN = (constrain(x, None) for x in found)
    return logp_RN, greedy_RN

  return _Programs(jax.jit(begin), jax.jit(rows))


def _read(logits_V: Array, target: Array) -> tuple[Array, Array]:
  """The log-probability of a target, and whether none is likelier."""
  chosen = jnp.take_along_axis(logits_V, target[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits_V, axis=-1), chosen >= logits_V.max(-1)
