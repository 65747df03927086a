"""Our models under lm-evaluation-harness (`lm_eval`): its tasks and prompts, our log-probabilities.

It needs `pip install 'llm_jax[eval]'`. The begin of a document precedes every context, once, as in
training. What is too long loses its begin, as with the harness's own models.
"""

import functools
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from llm_jax.evals import asking
from llm_jax.evals.estimates import PerQuestion
from llm_jax.evals.kept import Kept, Progress
from llm_jax.evals.likelihood import Ids, Likelihood, Request, Scored, Text
from llm_jax.evals.task import with_kept
from llm_jax.options import Count, Seed, at_least
from llm_jax.sampling import complete
from llm_jax.types import BadInput, Evaluate, Mean, Metrics, Model, Params, Tokenizer


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  task: str,
  mesh: Any,
  path: str = '',
  shots: Annotated[int, at_least(0)] | None = None,
  max_questions: Count | None = None,
  max_new: Count = 256,
  batch_tokens: Count = 2048,
  batch_size: Count = 32,
  seed: Seed = 0,
  record: Callable[[Mapping[str, Any], str], None] | None = None,
  per_question: Callable[[str, PerQuestion], None] | None = None,
  kept: Kept | None = None,
  progress: Progress | None = None,
) -> Evaluate:
  """`evaluate(params) -> Metrics`: those that the harness gives for one of its tasks or groups.

  Args:
    model: a causal language model.
    tokenizer: of the model.
    task: its name in the harness.
    mesh: where batches go.
    path: a folder with tasks of yours, as YAML; its own are always there.
    shots: examples before each question; by default what the task says.
    max_questions: the first so many; None for all.
    max_new: most tokens of an answer, where the task says none.
    batch_tokens: places in a batch, for each device.
    batch_size: answers written at a time.
    seed: of drawing examples.
    record: called with each question, its scores among it, and what was said.
    per_question: called with the name of each metric that is a mean, and its scores.
    kept: answers of this model from before.
    progress: called with an iterable and how many questions it will answer; gives it back.
  """
  check(model, task=task)
  engine = Likelihood(model, mesh, batch_tokens)

  def evaluate(params: Params) -> Metrics:
    lm_eval, tasks = map(importlib.import_module, ('lm_eval', 'lm_eval.tasks'))
    ask = functools.partial(with_kept, engine, params, kept=kept, progress=progress)
    write = functools.partial(_written, model, tokenizer, params, max_new, batch_size)
    found = lm_eval.simple_evaluate(
      model=_language_model(model, tokenizer, ask, write),
      tasks=[task],
      num_fewshot=shots,
      limit=max_questions,
      bootstrap_iters=0,
      fewshot_random_seed=seed,
      task_manager=tasks.TaskManager(include_path=path or None),
    )
    return _metrics(task, found, record, per_question)

  return evaluate


def check(model: Model, *, task: str, **others: Any) -> None:
  """Whether the harness is here, and the model continues texts."""
  del others
  if importlib.util.find_spec('lm_eval') is None:
    raise BadInput("lm_eval: it is not installed; pip install 'llm_jax[eval]' adds it")
  if not model.shape.causal or model.shape.head == 'scalar':
    raise BadInput(f'lm_eval: {task}: this model does not continue texts')


def _language_model(
  model: Model,
  tokenizer: Tokenizer,
  ask: Callable[[Sequence[Request]], Any],
  write: Callable[[Sequence[tuple[str, Mapping[str, Any]]]], list[str]],
) -> Any:
  """The harness's view of a model."""
  base: Any = importlib.import_module('lm_eval.api.model').TemplateLM
  begin, room = tokenizer.begin or (tokenizer.eos_id,), model.shape.max_length

  class Ours(base):
    eot_token_id = tokenizer.eos_id
    prefix_token_id = begin[-1]  # by default that would be the end of a text
    max_length = room

    def tok_encode(
      self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
      before = () if add_special_tokens is False else tokenizer.begin
      return [*before, *tokenizer.encode(string)]

    def _loglikelihood_tokens(
      self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
      texts: dict[Ids, list[Text]] = {}  # each context is read once
      places = []
      for _names, context, continuation in requests:
        ids = (*context, *continuation)[-(room + 1) :]
        some = texts.setdefault(ids[: -len(continuation)], [])
        places.append((ids[: -len(continuation)], len(some)))
        some.append(Text(ids[-len(continuation) :]))
      scored: dict[int, list[Scored]] = dict(ask([Request(c, (*t,)) for c, t in texts.items()]))
      number = {context: i for i, context in enumerate(texts)}
      return [tuple(scored[number[context]][j]) for context, j in places]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
      del disable_tqdm
      texts = [tokenizer.encode(request.args[0]) for request in requests]
      windows = [asking.rolling(ids, begin, room) for ids in texts]
      scored = dict(ask([one for some in windows for one in some]))
      sums, start = [], 0
      for some in windows:
        sums.append(sum(scored[start + i][0].logp for i in range(len(some))))
        start += len(some)
      return sums

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
      del disable_tqdm
      return write([request.args for request in requests])

  return Ours()


def _written(
  model: Model,
  tokenizer: Tokenizer,
  params: Params,
  max_new: int,
  batch_size: int,
  requests: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[str]:
  """What is written after each context, in the harness's way of saying how."""
  said: dict[int, str] = {}
  ways: dict[str, list[int]] = {}
  for i, (_, how) in enumerate(requests):
    ways.setdefault(json.dumps(how, sort_keys=True), []).append(i)
  for way, numbers in ways.items():
    how = json.loads(way)
    until = how.get('until') or []
    stops = [until] if isinstance(until, str) else [*until]
    new = int(how.get('max_gen_toks', max_new))
    if new >= model.shape.max_length:
      room = model.shape.max_length
      raise BadInput(f'lm_eval: max_gen_toks {new} leaves no room for a question in {room} tokens')
    heat = float(how.get('temperature', 1.0)) if how.get('do_sample') else 0.0
    run = complete.sampler(
      model, tokenizer, None, max_new=new, stop_strings=stops, temperature=heat
    )
    most = model.shape.max_length - new - len(tokenizer.begin)
    prompts = [[*tokenizer.begin, *tokenizer.encode(requests[i][0])[-most:]] for i in numbers]
    found = complete.sampled(run, params, prompts, batch_size=batch_size)
    for i, ids in zip(numbers, found, strict=True):
      said[i] = tokenizer.decode(ids)
      for stop in filter(None, stops):
        said[i] = said[i].partition(stop)[0]
  return [said[i] for i in range(len(requests))]


def _metrics(
  task: str,
  found: Mapping[str, Any],
  record: Callable[[Mapping[str, Any], str], None] | None,
  per_question: Callable[[str, PerQuestion], None] | None,
) -> Metrics:
  """The harness's numbers, those of members of a group with the name of the member before them."""
  metrics: Metrics = {}
  for member, numbers in found['results'].items():
    samples = found.get('samples', {}).get(member, [])
    for name, value in numbers.items():
      metric, _, way = name.partition(',')
      if metric.endswith('_stderr') or not isinstance(value, (int, float)) or not way:
        continue
      shown = metric if way == 'none' else f'{metric}_{way}'
      shown = shown if member == task else f'{member}/{shown}'
      metrics[shown] = Mean.of(value)
      own = [row for row in samples if row.get('filter', 'none') == way and metric in row]
      scores = [row[metric] for row in own if isinstance(row[metric], (int, float, np.number))]
      if per_question is not None and scores and len(scores) == len(own):
        values = np.array(scores, float)
        if np.isclose(values.mean(), value, rtol=0, atol=1e-9):  # else it is no mean
          keys = tuple(str(row['doc_id']) for row in own)
          per_question(shown, PerQuestion(keys=keys, scores=values))
    if record is not None:
      for row in samples:
        record(_row(member, row), str(row.get('filtered_resps')))
  return metrics


def _row(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
  numbers = {name: float(row[name]) for name in row.get('metrics', ()) if _is_number(row[name])}
  arguments = row.get('arguments') or {}
  first = next(iter(arguments.values()), {}) if isinstance(arguments, Mapping) else arguments[0]
  prompt = next(iter(first.values()), '') if isinstance(first, Mapping) else first[0]
  gold = str(row.get('target', ''))
  return {
    'task': task, 'key': str(row['doc_id']), 'prompt': str(prompt), 'gold': gold, 'scores': numbers,
  }  # fmt: skip


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float, np.number))
