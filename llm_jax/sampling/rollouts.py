"""The sampler of rollouts by the engine: rows that end early make room for others."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_jax.parallel.mesh import batch_shards, local_rows, shard_batch
from llm_jax.sampling.engine import Engine
from llm_jax.sampling.request import Request
from llm_jax.types import Array, BadInput, Batch, Model, Params, Tokenizer

CHUNK = 64  # of prompts, at most
COLUMNS = 8


class Rollouts:
  """`rollouts(params, prompt_BP, prompt_mask_BP, rng) -> Batch`, the answers of `Sampler`.

  Attributes:
    slots: columns that an answer can take.
    calls: None, for no tool can be called.
  """

  calls = None

  def __init__(
    self,
    model: Model,
    tokenizer: Tokenizer,
    *,
    max_new: int,
    stop: Sequence[int],
    how: Mapping[str, Any],
    stop_strings: Sequence[str] = (),
    group: int = 1,
    rows: int = 32,
    mesh: Any = None,
  ) -> None:
    """Nothing is compiled yet.

    Args:
      model: a causal language model.
      tokenizer: of the model.
      max_new: most tokens of an answer.
      stop: ids that end it.
      how: `temperature` and the like, see `Request`; None stands for its default.
      stop_strings: texts that end it; it keeps the token that completes one.
      group: answers to each prompt.
      rows: answers that are written at a time.
      mesh: where rows live.

    Raises:
      BadInput: there are several hosts.
    """
    if jax.process_count() > 1:
      raise BadInput('sampling: the engine works on one host; leave engine=True out')
    self._model, self._tokenizer, self._mesh, self._group = model, tokenizer, mesh, group
    self._how = {name: value for name, value in how.items() if value is not None}
    self._how |= dict(max_new=max_new, stop=tuple(set(stop)), stop_strings=tuple(stop_strings))
    shards = 1 if mesh is None else batch_shards(mesh)
    self._rows = math.ceil(rows / shards) * shards
    self._engine: Engine | None = None
    self.slots = max_new
    each = jax.vmap(lambda rng, i: jax.random.key_data(jax.random.fold_in(rng, i)), (None, 0))
    self._words = jax.jit(lambda rng, numbers: each(rng, numbers))

  def __call__(self, params: Params, prompt_BP: Any, prompt_mask_BP: Any, rng: Array) -> Batch:
    """The fields of `generate`, but for `old_logp`."""
    prompt_BP, real_BP = local_rows(prompt_BP), local_rows(prompt_mask_BP) > 0
    batch, width = prompt_BP.shape
    engine = self._loaded(params, width)
    words_B2 = np.asarray(self._words(rng, np.arange(batch)))
    known = [i for i in range(batch) if real_BP[i].any()]
    asked = (
      Request(prompt=prompt_BP[i][real_BP[i]].tolist(), key=words_B2[i], choice=g, **self._how)
      for i in known
      for g in range(self._group)
    )
    rows, columns = batch * self._group, width + self.slots
    out = {k: np.zeros((rows, columns), np.int32) for k in ('tokens', 'position', 'segment')}
    out |= {k: np.zeros((rows, columns), np.float32) for k in ('mask', 'sampled_logp')}
    several = lambda x_BP: np.repeat(x_BP, self._group, axis=0)
    out['tokens'][:, :width], out['segment'][:, :width] = several(prompt_BP), several(real_BP)
    places = [i * self._group + g for i in known for g in range(self._group)]
    for row, event in zip(places, engine.answers(asked), strict=True):
      said = slice(width, width + len(event.tokens))
      out['tokens'][row, said], out['sampled_logp'][row, said] = event.tokens, event.sampled
      out['segment'][row, said] = out['mask'][row, said] = 1
    out['position'] = (np.cumsum(out['segment'], axis=1) - 1).clip(0) * out['segment']
    if self._mesh is None:
      return jax.tree.map(jnp.asarray, out)
    return shard_batch(out, self._mesh)

  def _loaded(self, params: Params, width: int) -> Engine:
    """The engine with these parameters, and room for prompts of so many columns."""
    length = width + self.slots
    if self._engine is not None and self._engine.length >= length:
      self._engine.load(params)
      return self._engine
    self._engine = Engine(
      self._model,
      params,
      self._tokenizer,
      slots=self._rows,
      length=length,
      chunk=min(CHUNK, width),
      columns=COLUMNS,
      waiting=self._rows,
      mesh=self._mesh,
    )
    self._engine.warm()
    return self._engine
