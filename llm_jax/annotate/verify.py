"""Rewards that a program can check: RL with verifiable rewards, arXiv:2411.15124, section 6."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from llm_jax.annotate import stats
from llm_jax.annotate.workers import Failure, run_all
from llm_jax.data import prompts
from llm_jax.find import bind, find
from llm_jax.parallel.mesh import local_rows, shard_batch
from llm_jax.types import Array, BadInput, Batch, Params


def make(
  model: Any,
  tokenizer: Any,
  *,
  mesh: Any,
  rewards: Sequence[str] = ('exact_answer',),
  weights: Sequence[float] | None = None,
  options: Mapping[str, Mapping[str, Any]] | None = None,
  specials: bool = False,
  timeout: float = 5.0,
  workers: int = 4,
) -> 'Verify':
  """Writes `reward` float32 [B, G], a weighted sum of `reward(answer, gold)`s, and `valid`.

  The answer is the text of what was sampled (what tools said is left out), the gold is `answer`
  [B, A]. A function that raises, takes too long or gives no finite number makes its answer invalid:
  `valid` 0 and `reward` 0, counted in `verify_failed`, so that it trains nothing. What a judge
  before it wrote is added. Also logs `reward`, `reward_std` and, with several functions,
  `reward_<name>`.

  Args:
    model: unused.
    tokenizer: decodes the answers.
    mesh: where rows live.
    rewards: files of rewards/, or dotted names of modules of the user's.
    weights: of each; 1 by default.
    options: name (the last part of a dotted one) -> keyword arguments of its function.
    specials: show control tokens in the text, for a reward about them.
    timeout: seconds that one answer may take. No signal is used; a function that hangs keeps its
      thread, and is replaced by another.
    workers: threads.

  Raises:
    BadInput: an unknown reward or option, or weights that do not match. When it is called: every
      answer of the first rollout met a BadInput, so the options or the gold answers are wrong.
  """
  del model
  options, last = dict(options or {}), lambda name: name.rpartition('.')[-1]
  names = [last(name) for name in rewards]
  if not names or len(set(names)) < len(names):
    raise BadInput(f'annotate.verify: rewards {tuple(rewards)}; name at least one, each once')
  if weights is not None and len(weights) != len(names):
    raise BadInput(
      f'annotate.verify: {len(weights)} weights for {len(names)} rewards; give one each'
    )
  for name in options:
    if name not in names:
      raise BadInput(f'annotate.verify: options for {name!r}, which is not among rewards')
  if timeout <= 0 or workers < 1:
    raise BadInput(f'annotate.verify: timeout {timeout} and workers {workers} must be above 0')
  bound = {
    last(name): bind(
      find('rewards', name).reward,
      options.get(last(name), {}),
      where=f'annotate.verify.options.{last(name)}',
    )
    for name in rewards
  }
  scale = [1.0] * len(names) if weights is None else [float(w) for w in weights]
  return Verify(tokenizer, bound, scale, mesh, specials, timeout, workers)


class Verify:
  """The annotator that `make` describes; `failures` has the last few messages, for the curious."""

  def __init__(
    self,
    tokenizer: Any,
    rewards: Mapping[str, Any],
    weights: Sequence[float],
    mesh: Any,
    specials: bool,
    timeout: float,
    workers: int,
  ) -> None:
    self._tokenizer, self._rewards, self._weights = tokenizer, rewards, weights
    self._mesh, self._specials = mesh, specials
    self._timeout, self._workers = timeout, workers
    self.failures: list[str] = []
    self._judged = False  # whether any answer has been
    self._logs = jax.jit(_logs)
    self._judged_by_all = jax.jit(
      lambda batch, mine: stats.judged(batch, mine['reward'], mine['valid'] > 0)
    )

  def __call__(self, params: Params, batch: Batch, rng: Array) -> Batch:
    del params, rng
    stats.need(batch, 'verify', answer='data.name=prompts', tokens='sample')
    tokens_BGL, mask_BGL = local_rows(batch['tokens']), local_rows(batch['mask']) > 0
    gold_B = [prompts.gold(answer_A) for answer_A in local_rows(batch['answer'])]
    found = np.zeros((*mask_BGL.shape[:2], len(self._rewards)), np.float32)
    valid = np.asarray(mask_BGL.any(-1))
    jobs, places = [], []
    for b, g in np.argwhere(valid):
      ids = tokens_BGL[b, g][mask_BGL[b, g]].tolist()
      text = self._tokenizer.decode(ids, specials=self._specials)
      jobs.append(lambda text=text, gold=gold_B[b]: self._scored(text, gold))
      places.append((b, g))
    asked = valid.copy()
    results = run_all(jobs, workers=self._workers, timeout=self._timeout)
    wrong = [r.error for r in results if isinstance(r, Failure) and isinstance(r.error, BadInput)]
    self._judged |= len(wrong) < len(results)
    if wrong and not self._judged:
      raise BadInput(f'annotate.verify: no answer could be judged: {wrong[0]}')
    for place, result in zip(places, results, strict=True):
      if isinstance(result, Failure):
        valid[place] = False
        self.failures = [*self.failures[-9:], str(result)]
      else:
        found[place] = result
    fields = shard_batch(
      {
        'found': found,
        'asked': asked.astype(np.float32),
        'sure': valid.astype(np.float32),
        'valid': valid.astype(np.float32),
        'reward': np.asarray(found @ np.asarray(self._weights, np.float32), np.float32),
      },
      self._mesh,
    )
    fields |= self._judged_by_all(batch, fields)
    logs = self._logs(batch, fields)
    if len(self._rewards) > 1:
      logs |= {f'log/reward_{name}': logs['each'][i] for i, name in enumerate(self._rewards)}
    del logs['each']
    return {**batch, 'reward': fields['reward'], 'valid': fields['valid'], **logs}

  def _scored(self, text: str, gold: str) -> list[float]:
    values = [float(reward(text, gold)) for reward in self._rewards.values()]
    if not np.isfinite(values).all():
      raise ValueError(f'a reward that is not finite: {dict(zip(self._rewards, values))}')
    return values


def _logs(batch: Batch, fields: Batch) -> dict[str, Any]:
  valid, asked = fields['valid'] > 0, fields['asked'] > 0
  each = [stats.mean(fields['found'][..., i], valid) for i in range(fields['found'].shape[-1])]
  rows = lambda value: stats.logged(batch, value=value)['log/value']
  return {
    'each': [rows(value) for value in each],
    'log/reward': rows(stats.mean(fields['reward'], valid)),
    'log/reward_std': rows(stats.std(fields['reward'], valid, ddof=0)),
    'log/verify_failed': rows(stats.mean(fields['sure'] == 0, asked)),
  }
