"""What is measured of one model: its metrics, these on each question, and what it said."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import llm_jax
from llm_jax import artifact
from llm_jax.artifact import Artifact
from llm_jax.evals.estimates import PerQuestion
from llm_jax.evals.kept import Progress
from llm_jax.jobs import evaluations
from llm_jax.models.compute import compute_of
from llm_jax.text.terminal import bar


@dataclasses.dataclass
class Measured:
  """What a model was put to, and how it did.

  Attributes:
    metrics: '<key>/<metric>' -> the number.
    per_question: '<key>/<metric>' -> what it is on each question, where an evaluation says so.
    said: key -> each question, with its scores where an evaluation gives them, and its answer.
    seconds: key -> the time that it took.
  """

  metrics: dict[str, float] = dataclasses.field(default_factory=dict)
  per_question: dict[str, PerQuestion] = dataclasses.field(default_factory=dict)
  said: dict[str, list[tuple[Mapping[str, Any], str]]] = dataclasses.field(default_factory=dict)
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def measure(
  groups: Mapping[str, Any],
  made: Artifact,
  *,
  mesh: Any,
  trust: Sequence[str] = (),
  **offered: Any,
) -> Measured:
  """Puts a model to all evaluations; their files are read before the first of them runs.

  Args:
    groups: key -> evaluation, see jobs/evaluations.py.
    made: the model.
    mesh: where batches go.
    trust: modules of yours that other artifacts may name as their model.
    **offered: what else an evaluation may ask for by name.
  """
  found, built = Measured(), {}
  for key, group in groups.items():

    def record(question: Mapping[str, Any], answer: str, key: str = key) -> None:
      found.said.setdefault(key, []).append((question, answer))

    def per_question(name: str, metric: PerQuestion, key: str = key) -> None:
      found.per_question[f'{key}/{name}'] = metric

    built |= evaluations.build(
      {key: group},
      made.model,
      made.tokenizer,
      mesh=mesh,
      template=made.template,
      trust=trust,
      record=record,
      per_question=per_question,
      **offered,
    )
  for key, one in built.items():
    began = time.perf_counter()
    for name, metric in evaluations.run({key: one}, made.params).items():
      one = found.per_question.get(name)
      scores = one.scores if one is not None else None
      if scores is not None and len(scores):
        found.metrics[name] = float(np.mean(scores))  # and not in float32
      else:
        found.metrics[name] = float(metric.value)
    found.seconds[key] = time.perf_counter() - began
  return found


def watched(name: str) -> Progress:
  """A bar on a terminal, with the time that is left, while a model is asked."""
  return lambda answers, count: bar(
    iterable=answers,
    total=count,
    desc=name,
    unit='question',
    disable=None if jax.process_index() == 0 else True,  # None: only on a terminal
  )


def identity(path: str, compute: Mapping[str, Any] | None) -> str:
  """The name of what decides the numbers of a model: parameters, tokenizer, types, this version."""
  about, how = artifact.describe(path), compute_of(compute)
  parts = {
    'files': about['files'],
    'tokenizer': about['tokenizer'],
    'model': about['model'],
    'template': about['config'].get('data', {}).get('template'),
    'dtype': [how.dtype, how.product_dtype, how.cache_dtype, how.products],
    'version': llm_jax.__version__,
  }
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
