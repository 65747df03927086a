"""The sampler of rollouts, evaluations and chats: `generate`, with tools and stop strings.

A model calls a tool by writing a text between two control tokens (`<SEARCH_START>` and
`<SEARCH_END>`). The host runs it and feeds the result, between two others, as tokens: what was
sampled is never decoded and encoded again, so the trainer sees the very ids that the sampler saw.
All rows are decoded until each has stopped or called; then all calls are answered at once.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.parallel.mesh import local_rows, shard_batch
from llm_jax.sampling.calls import Caller, Result, Tools
from llm_jax.sampling.generate import Rows, decode, feed, finish, generate, grow, start
from llm_jax.sampling.pick import Pick
from llm_jax.text.quotes import HeldQuotes, Passage
from llm_jax.types import Array, BadInput, Batch, Model, Params, Tokenizer

CHUNK = 16  # columns between two looks of the host at the texts, where there are stop strings


class Calls(NamedTuple):
  """Of every row [R]: how many calls were answered, and how many of those with an error."""

  made: np.ndarray
  failed: np.ndarray


class Sampler:
  """`sampler(params, prompt_BP, prompt_mask_BP, rng) -> Batch`; see `generate`.

  One compilation for each shape of prompts, however many batches come. After a call, `calls` says
  what the tools were asked, or is None without tools.

  Args:
    model: a causal Transformer.
    tokenizer: of the model; needed for tools and stop strings.
    max_new: most tokens that are sampled a row; results do not count.
    stop: ids that end an answer.
    pick: how to pick, compiled in; None: given in each call, so that it may change.
    stop_strings: texts that end an answer; it keeps the token that completes one.
    tools: what the model may call, or None.
    group: answers to each prompt.
    mesh: where rows live; needed for tools and stop strings.
  """

  def __init__(
    self,
    model: Model,
    tokenizer: Tokenizer,
    *,
    max_new: int,
    stop: Sequence[int],
    pick: Pick | None = None,
    stop_strings: Sequence[str] = (),
    tools: Tools | None = None,
    group: int = 1,
    mesh: Any = None,
  ) -> None:
    if max_new < 1 or group < 1:
      raise BadInput(f'sampling: max_new {max_new} and group {group} must be at least 1')
    if any(not text for text in stop_strings):
      raise BadInput('sampling: an empty stop string would stop every answer')
    self.calls: Calls | None = None
    self._tokenizer, self._max_new, self._mesh = tokenizer, max_new, mesh
    self._vocab_size = model.shape.vocab_size
    self._fast: Any = None  # the model in the form that decodes
    self._strings = tuple(stop_strings)
    self._caller = tools and Caller(tokenizer, tools, model.shape.vocab_size)
    if self._caller is not None:
      stop = (*stop, self._caller.end)
    self._penalised = pick is not None and pick.repetition_penalty is not None
    chosen = lambda given: given if pick is None else pick
    shape: Any = dict(model=model, max_new=max_new, stop=tuple(stop))
    self._whole = jax.jit(
      lambda params, ids, mask, rng, given: generate(
        params, ids, mask, rng, pick=chosen(given), group=group, **shape
      )
    )
    self._start = jax.jit(
      lambda params, ids, mask, rng, slots, penalised: grow(
        start(params, ids, mask, rng, model=model, group=group, penalised=penalised), slots
      ),
      static_argnums=(4, 5),
    )

    def arranged(params: Params) -> Params:
      self._fast, params = model.for_decoding(params)
      return params

    def chunk(
      params: Params, rows: Rows, given: Pick | None, allowed_RV: Array | None
    ) -> tuple[Rows, Array]:
      columns, pick = CHUNK if self._strings else max_new, chosen(given)
      if allowed_RV is not None:  # of the next token alone
        all_V = True if pick.allowed_V is None else pick.allowed_V
        columns, pick = 1, dataclasses.replace(pick, allowed_V=allowed_RV & all_V)
      rows = decode(params, rows, pick, columns=columns, **shape | {'model': self._fast})
      return rows, rows.alive_R.any()

    self._arranged, self._chunk = jax.jit(arranged), jax.jit(chunk)
    self._feed = jax.jit(functools.partial(feed, model=model))
    self._cut = jax.jit(_cut)
    self._finish = jax.jit(finish)

  @property
  def slots(self) -> int:
    """Columns that an answer with all its results can take."""
    return self._max_new + (self._caller.tools.slots if self._caller else 0)

  def __call__(
    self, params: Params, prompt_BP: Any, prompt_mask_BP: Any, rng: Array, pick: Pick | None = None
  ) -> Batch:
    if self._caller is None and not self._strings:
      return self._whole(params, prompt_BP, prompt_mask_BP, rng, pick)
    penalised = self._penalised if pick is None else pick.repetition_penalty is not None
    slots = prompt_BP.shape[1] + self.slots
    rows = self._start(params, prompt_BP, prompt_mask_BP, rng, slots, penalised)
    fast, count = self._arranged(params), len(local_rows(rows.alive_R))
    self.calls = None if self._caller is None else Calls(np.zeros(count, int), np.zeros(count, int))
    quoting = None
    if self._caller is not None and self._caller.holds:
      quoting = _RowQuotes(self._caller, count, self._vocab_size)
    held = None  # of each row, where quotes have to be held: on all hosts, or on none
    while True:
      allowed_RV = None
      if held is not None:
        allowed_RV = self._global(held.mask(local_rows(rows.alive_R)))
      rows, going = self._chunk(fast, rows, pick, allowed_RV)
      if held is not None:
        held.hear(self._texts(rows))
      if self._strings:
        rows, going = self._stopped(rows)
      if going:
        continue
      rows, fed = self._answered(params, rows, quoting)
      if not fed:
        return self._finish(rows)
      held = quoting

  def _texts(self, rows: Rows) -> list[list[int]]:
    """The ids that each row of this host sampled; results are left out."""
    tokens_RS, mask_RS = local_rows(rows.tokens_RS), local_rows(rows.mask_RS)
    return [t[m > 0].tolist() for t, m in zip(tokens_RS, mask_RS, strict=True)]

  def _stopped(self, rows: Rows) -> tuple[Rows, Any]:
    """Rows cut behind a stop string, where they have one, and whether any goes on."""
    keep = []
    for ids in self._texts(rows):
      keep.append(len(ids) + 1)
      if any(text in self._tokenizer.decode(ids) for text in self._strings):
        has = lambda n, ids=ids: any(s in self._tokenizer.decode(ids[:n]) for s in self._strings)
        keep[-1] = next(n for n in range(1, len(ids) + 1) if has(n))
    return self._cut(rows, self._global(np.array(keep, np.int32)))

  def _answered(
    self, params: Params, rows: Rows, quoting: '_RowQuotes | None'
  ) -> tuple[Rows, bool]:
    """Runs the calls that rows have stopped at and feeds the results; False if there was none."""
    if self._caller is None or self.calls is None:
      return rows, False
    calls, width = self.calls, self._caller.tools.max_result
    tokens_RT = np.zeros((len(calls.made), width), np.int32)
    length_R = np.zeros(len(calls.made), np.int32)
    for i, ids in enumerate(self._texts(rows)):
      if not self._caller.due(ids, calls.made[i], self._max_new):
        continue
      result = self._caller.result(ids)
      calls.made[i] += 1
      calls.failed[i] += result.failed
      tokens_RT[i, : len(result.ids)], length_R[i] = result.ids, len(result.ids)
      if quoting is not None:
        quoting.told(i, result, said=len(ids))
    length = self._global(length_R)
    if not bool((length > 0).any()):
      return rows, False
    return self._feed(params, rows, self._global(tokens_RT), length), True

  def _global(self, rows: np.ndarray) -> Array:
    """Rows of this host as an array of all."""
    if self._mesh is None:
      return jnp.asarray(rows)
    return shard_batch({'rows': rows}, self._mesh)['rows']


class _RowQuotes:
  """What holds the quotes of the rows of this host.

  Args:
    caller: of the tools.
    count: R.
    size: V.
  """

  def __init__(self, caller: Caller, count: int, size: int) -> None:
    self._caller, self._shape = caller, (count, size)
    self._results: list[list[Passage]] = [[] for _ in range(count)]
    self._held: dict[int, HeldQuotes] = {}
    self._said: dict[int, int] = {}  # tokens of each that were heard

  def told(self, i: int, result: Result, *, said: int) -> None:
    """Row `i` has sampled so many tokens, and goes on behind a result."""
    if result.quotable is not None:
      self._results[i].append(result.quotable)
    if held := self._caller.hold(self._results[i]):
      self._held[i], self._said[i] = held, said

  def mask(self, alive_R: np.ndarray) -> np.ndarray:
    """bool [R, V]: which ids may come next in those that go on."""
    mask_RV = np.ones(self._shape, bool)
    for i, held in self._held.items():
      if alive_R[i] and (mask_V := held.mask()) is not None:
        mask_RV[i] = mask_V
    return mask_RV

  def hear(self, texts: Sequence[Sequence[int]]) -> None:
    """What each row has sampled by now."""
    for i, held in self._held.items():
      for token in texts[i][self._said[i] :]:
        held.advance(token)
      self._said[i] = len(texts[i])


def _cut(rows: Rows, keep_R: Array) -> tuple[Rows, Array]:
  """Rows with at most `keep` sampled tokens; those that had more, or as many, have stopped."""
  cut_R = rows.count_R >= keep_R
  over_RS = (jnp.cumsum(rows.mask_RS, axis=1) > keep_R[:, None]) & (rows.mask_RS > 0)
  clear = lambda x_RS: jnp.where(over_RS, 0, x_RS)
  rows = dataclasses.replace(
    rows,
    cache=rows.cache.rewind(rows.cache.index - over_RS.sum(1)),
    alive_R=rows.alive_R & ~cut_R,
    count_R=jnp.minimum(rows.count_R, keep_R),
    tokens_RS=clear(rows.tokens_RS),
    mask_RS=clear(rows.mask_RS),
    old_logp_RS=clear(rows.old_logp_RS),
    sampled_logp_RS=clear(rows.sampled_logp_RS),
  )
  return rows, rows.alive_R.any()
