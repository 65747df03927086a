"""Rewards that a program can check: RL with verifiable rewards, arXiv:2411.15124, section 6."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from llm_jax.annotate import stats
from llm_jax.annotate.workers import Failure, run_all
from llm_jax.data import prompts
from llm_jax.find import find, last
from llm_jax.options import Count, Seconds, check, checked
from llm_jax.parallel.mesh import local_rows, shard_batch
from llm_jax.rewards import columns, thoughts
from llm_jax.text.message import spelled
from llm_jax.types import Array, BadInput, Batch, Model, Params, Tokenizer

READS = lambda o: ('tokens', 'mask', 'gold', *(('record',) if COLUMNS(o) else ()))
WRITES = lambda o: (
  *('reward', 'valid', 'log/reward', 'log/reward_std', 'log/verify_failed'),
  *(f'log/reward_{last(name)}' for name in o['rewards'] if len(o['rewards']) > 1),
)


def COLUMNS(o: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: N802, a declaration as those above
  """The columns of a record that the rewards ask for."""
  options = o['options'] or {}
  asked = [columns.asked(function(name), options.get(last(name), ())) for name in o['rewards']]
  return columns.of_record([*dict.fromkeys(column for some in asked for column in some)])


_TAIL = 16  # tokens of a prompt that can tell whether it opens a thought


class Judge(NamedTuple):
  """A reward with its options.

  Attributes:
    function: (answer, gold, **columns) -> number; or of lists, for a whole batch.
    columns: what it asks for beside.
    whole: whether it judges a batch at a time.
  """

  function: Callable[..., Any]
  columns: tuple[str, ...]
  whole: bool


def function(name: str) -> Callable[..., Any]:
  """`reward` of a file of rewards/, or `rewards`, which judges a batch at a time."""
  module = find('rewards', name)
  return module.rewards if hasattr(module, 'rewards') else module.reward


@checked(where='annotate.verify')
def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  mesh: Any,
  rewards: Sequence[str] = ('exact_answer',),
  weights: Sequence[float] | None = None,
  options: Mapping[str, Mapping[str, Any]] | None = None,
  specials: bool = False,
  timeout: Seconds = 5.0,
  workers: Count = 4,
) -> 'Verify':
  """Writes `reward` float32 [B, G], a weighted sum of `reward(answer, gold)`s, and `valid`.

  The answer is the text of what was sampled without thoughts and calls of tools, '' if a thought is
  not closed; the gold is `gold` [B, A]. A reward may name columns of the prompt's record as further
  keywords, `prompt` and `messages`, and of what was sampled the `thinking` and the whole
  `completion` (rewards/columns.py). A file with `rewards(answers, golds, **columns)` gets lists, of
  all answers of a batch, and returns a list; None in it is no opinion.

  A function that raises, takes too long or gives no number of at most 1e18, whose squares float32
  can add up, makes its answer invalid: `valid` 0 and `reward` 0, counted in `verify_failed`, so
  that it trains nothing. What a judge before it wrote is added. Also logs `reward`, `reward_std`
  and, with several functions, `reward_<name>`.

  Args:
    model: unused.
    tokenizer: decodes the answers.
    mesh: where rows live.
    rewards: files of rewards/, or modules or files of the user's.
    weights: of each; 1 by default.
    options: name (the last part of a dotted one) -> keyword arguments of its function.
    specials: the answer is all that was sampled, with control tokens, for a reward about them.
    timeout: seconds that one answer may take. No signal is used; a function that hangs keeps its
      thread, and is replaced by another.
    workers: threads.

  Raises:
    BadInput: an unknown reward or option, or weights that do not match. When it is called: every
      answer of the first rollout met a BadInput, so the options or the gold answers are wrong.
  """
  del model
  options = dict(options or {})
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
  judges = {}
  for name in rewards:
    own, where = options.get(last(name), {}), f'annotate.verify.options.{last(name)}'
    asked = columns.asked(function(name), own)
    check(function(name), own, where=where, offered=asked)
    bound = functools.partial(function(name), **own)
    judges[last(name)] = Judge(bound, asked, hasattr(find('rewards', name), 'rewards'))
  scale = [1.0] * len(names) if weights is None else [float(w) for w in weights]
  return Verify(tokenizer, judges, scale, mesh, specials, timeout, workers)


class Verify:
  """The annotator that `make` describes; `failures` has the last few messages, for the curious."""

  def __init__(
    self,
    tokenizer: Tokenizer,
    judges: Mapping[str, Judge],
    weights: Sequence[float],
    mesh: Any,
    specials: bool,
    timeout: float,
    workers: int,
  ) -> None:
    self._tokenizer, self._judges, self._weights = tokenizer, judges, weights
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
    stats.need(batch, 'verify', 'tokens', 'mask', 'gold')
    tokens_BGL, mask_BGL = local_rows(batch['tokens']), local_rows(batch['mask']) > 0
    gold_B = [prompts.gold_text(gold_A) for gold_A in local_rows(batch['gold'])]
    record_B: Any = [{}] * len(gold_B)
    if 'record' in batch:
      record_B = [columns.unpack(record_A) for record_A in local_rows(batch['record'])]
    found = np.zeros((*mask_BGL.shape[:2], len(self._judges)), np.float32)
    valid = np.asarray(mask_BGL.any(-1))
    places = [tuple(place) for place in np.argwhere(valid)]
    sampled = [tokens_BGL[at][mask_BGL[at]].tolist() for at in places]
    before = [tokens_BGL[at][: mask_BGL[at].argmax()][-_TAIL:].tolist() for at in places]
    spell = functools.partial(spelled, self._tokenizer)
    after = [ids[-1] if ids else None for ids in before]
    texts = [
      thoughts.said(*both)
      for both in zip(map(spell, sampled, after), map(spell, before), strict=True)
    ]
    if self._specials:
      shown = [
        self._tokenizer.decode(ids, True, last) for ids, last in zip(sampled, after, strict=True)
      ]
      texts = [text._replace(answer=all_) for text, all_ in zip(texts, shown, strict=True)]
    asked = valid.copy()
    results = self._scores(texts, [gold_B[b] for b, _ in places], [record_B[b] for b, _ in places])
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
    if len(self._judges) > 1:
      logs |= {f'log/reward_{name}': logs['each'][i] for i, name in enumerate(self._judges)}
    del logs['each']
    return {**batch, 'reward': fields['reward'], 'valid': fields['valid'], **logs}

  def _scores(
    self, texts: Sequence[thoughts.Said], golds: Sequence[str], records: Sequence[Mapping[str, Any]]
  ) -> list[list[float] | Failure]:
    """Of each answer what all judges say, in their order, or why one of them does not."""
    single = {name: judge for name, judge in self._judges.items() if not judge.whole}
    records = [
      {**record, 'thinking': text.thinking, 'completion': text.completion}
      for text, record in zip(texts, records, strict=True)
    ]
    answers = [text.answer for text in texts]
    beside = lambda judge, record: {name: record[name] for name in judge.columns}
    jobs = [
      lambda text=text, gold=gold, record=record: {
        name: _number(name, judge.function(text, gold, **beside(judge, record)))
        for name, judge in single.items()
      }
      for text, gold, record in zip(answers, golds, records, strict=True)
    ]
    limits: Any = dict(workers=self._workers, timeout=self._timeout)
    results: list[Any] = run_all(jobs, **limits) if single else [{} for _ in texts]
    for name, judge in self._judges.items():
      if not judge.whole or not texts:
        continue
      more = {column: [record[column] for record in records] for column in judge.columns}
      whole = lambda judge=judge, more=more: list(judge.function([*answers], [*golds], **more))
      (said,) = run_all([whole], workers=1, timeout=self._timeout * len(texts))
      if not isinstance(said, Failure) and len(said) != len(texts):
        said = Failure(f'{name}: {len(said)} rewards for {len(texts)} answers')
      for i, result in enumerate(results):
        if isinstance(result, Failure):
          continue
        try:
          results[i] = (
            said if isinstance(said, Failure) else result | {name: _number(name, said[i])}
          )
        except (TypeError, ValueError) as error:
          results[i] = Failure(str(error), error)
    in_order = lambda result: [result[name] for name in self._judges]
    return [r if isinstance(r, Failure) else in_order(r) for r in results]


def _number(name: str, value: Any) -> float:
  if value is None:
    raise ValueError(f'{name}: no opinion')
  if not abs(value := float(value)) <= stats.LARGEST:
    raise ValueError(f'{name}: a reward that is not finite, or too large for float32: {value}')
  return value


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
