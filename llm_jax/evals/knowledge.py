"""What a model does where its knowledge ends: right, invented, or refused, by class of question.

Classes are those of `data.knowledge`. Over-refusal is the share of refusals among what was known,
by a probe from before the model learned to refuse, or else what SFT taught.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from llm_jax.data import knowledge, refusals
from llm_jax.evals import abstention, probes
from llm_jax.evals.calibration import auroc
from llm_jax.evals.estimates import PerQuestion
from llm_jax.evals.probes import Probe, Said
from llm_jax.options import Count, NotNegative, Seed, at_least
from llm_jax.sampling import complete
from llm_jax.sampling.calls import Tools
from llm_jax.types import (
  BadInput,
  Counts,
  Evaluate,
  Mean,
  Metrics,
  Model,
  Params,
  Tokenizer,
)

FILES = ('known',)  # the options that hold the file of another stage
COSTS = (1, 3, 9)  # of a wrong answer, in the scores that are reported
SHARES = {'right': 'right', 'invention': 'wrong', 'refused': 'refused'}  # metric -> outcome


class Asked(NamedTuple):
  """A question, what was said, what it is worth, and whether it was known before."""

  question: Mapping[str, Any]
  said: Said
  probe: Probe
  known: bool


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  classes: Sequence[str] = knowledge.CLASSES,
  sources: Mapping[str, str] | None = None,
  split: Literal['train', 'validation', 'test'] = 'test',
  phrasings: Count = 1,
  most: Count | None = None,
  known: str = '',
  samples: Annotated[int, at_least(0)] = 0,
  system: str = '',
  tools: Tools | None = None,
  template: str | None = None,
  max_new: Count = 48,
  temperature: NotNegative = 1.0,
  batch_size: Count = 64,
  seed: Seed = 0,
  record: Callable[[Mapping[str, Any], str], None] | None = None,
  per_question: Callable[[str, PerQuestion], None] | None = None,
) -> Evaluate:
  """`evaluate(params) -> {'<class>/right', '<class>/invention', '<class>/refused', ...}`.

  All classes together have `over_refusal`, `invention` on what was not known, `f` (SimpleQA's),
  `accuracy_given_attempted`, `refusal_precision`, `refusal_recall`, `score_<p>` for a wrong answer
  that costs p, `failed`, and how well the log-probability of an answer tells right from wrong:
  `auroc`, and `auroc_answered` among answers that are no refusals; with samples `auroc_agreement`.

  Args:
    model: a causal language model.
    tokenizer: of the model.
    classes: of questions, see data/knowledge.py.
    sources: questions of yours instead, as in `data.knowledge.given`.
    split: 'train', 'validation' or 'test', by name.
    phrasings: questions about one name; they are one cluster.
    most: facts of each class; None for all.
    known: `probe.jsonl` of a model before it learned to refuse; what it knew is `known`. By default
      that is what SFT taught.
    samples: answers that are drawn beside the greedy one, which is the one that counts.
    system: a message of the system before each question; '' for none.
    tools: what the model may call; a message of the system lists them.
    template: the chat template of the model.
    max_new: most tokens of an answer.
    temperature: of what is drawn.
    batch_size: questions at a time.
    seed: of what is drawn.
    record: called with each question and its answer.
    per_question: called with the name of each metric, and what it is on each question.
  """
  check(model, classes=classes, sources=sources)
  if sources:
    questions = knowledge.given(sources, split)
  else:
    questions = knowledge.questions(split, classes=classes, phrasings=phrasings, most=most)
  if not questions:
    raise BadInput(f'knowledge: no questions in the {split} split; give it more of them')
  before = None
  if known:
    probed = refusals.read(Path(known))
    before = {knowledge.subject_of(one) for one in probed if one['verdict'] == 'known'}
  ask = probes.asker(
    model,
    tokenizer,
    template=template,
    samples=samples,
    max_new=max_new,
    temperature=temperature,
    batch_size=batch_size,
    seed=seed,
    system=system,
    tools=tools,
  )

  def is_known(question: Mapping[str, Any]) -> bool:
    if before is None:
      return question['class'] in knowledge.KNOWN
    return knowledge.subject_of(question) in before

  def evaluate(params: Params) -> Metrics:
    said = dict(ask(params, questions, ()))
    asked = []
    for i, question in enumerate(questions):
      probe = probes.judged(said[i], question['answer'], question.get('also', ()))
      asked.append(Asked(question, said[i], probe, is_known(question)))
      if record is not None:
        shown = {'outcome': probe.outcome, 'logp': said[i].logp, 'samples': [*said[i].samples]}
        record({**question, **shown}, said[i].greedy)
    found = measured(asked)
    if per_question is not None:
      for name, metric in found.items():
        per_question(name, metric)
    return {name: _metric(one) for name, one in found.items()}

  return evaluate


def check(
  model: Model,
  *,
  classes: Sequence[str] = knowledge.CLASSES,
  sources: Mapping[str, str] | None = None,
  **others: Any,
) -> None:
  """Whether there are such classes, and the model can answer."""
  del others
  if not sources:
    knowledge.check(classes)
  complete.check_speaks(model, 'knowledge')


def measured(asked: Sequence[Asked]) -> dict[str, PerQuestion]:
  """The metrics of `make`, on each question. What failed is in `failed` alone."""
  judged = [one for one in asked if one.probe.outcome != 'failed']
  found = {'failed': _share(asked, lambda one: one.probe.outcome == 'failed')}
  for kind in dict.fromkeys(one.question['class'] for one in judged):
    some = [one for one in judged if one.question['class'] == kind]
    for name, outcome in SHARES.items():
      if name != 'right' or any(one.question['answer'] for one in some):
        found[f'{kind}/{name}'] = _outcome(some, outcome)
  before = [one for one in judged if one.known]
  if before:
    found['over_refusal'] = _outcome(before, 'refused')
  if len(before) < len(judged):
    found['invention'] = _outcome([one for one in judged if not one.known], 'wrong')
  for name in ('accuracy_given_attempted', 'refusal_precision', 'refusal_recall'):
    found[name] = _computed(judged, getattr(abstention, name))
  found['f'] = _computed(judged, abstention.simpleqa_f)
  for cost in COSTS:
    worth = {'right': 1.0, 'refused': 0.0, 'wrong': -float(cost)}
    found[f'score_{cost}'] = _each(judged, [worth[one.probe.outcome] for one in judged])
  answered = [one for one in judged if one.probe.outcome != 'refused']
  found['auroc'] = _separation(judged, lambda one: math.exp(one.said.logp))
  found['auroc_answered'] = _separation(answered, lambda one: math.exp(one.said.logp))
  if any(len(one.said.samples) > 1 for one in judged):
    found['auroc_agreement'] = _separation(judged, lambda one: one.probe.agreement)
  return {name: one for name, one in found.items() if len(one.keys)}


def _share(asked: Sequence[Asked], holds: Callable[[Asked], bool]) -> PerQuestion:
  return _each(asked, [float(holds(one)) for one in asked])


def _outcome(asked: Sequence[Asked], outcome: str) -> PerQuestion:
  return _share(asked, lambda one: one.probe.outcome == outcome)


def _each(asked: Sequence[Asked], scores: Sequence[float]) -> PerQuestion:
  return PerQuestion(scores=np.array(scores, float), **_of(asked))


def _computed(asked: Sequence[Asked], metric: Callable[..., float]) -> PerQuestion:
  """A metric of outcomes that is no mean of them."""
  sums = [abstention.outcomes([one.probe.outcome], [one.known]) for one in asked]
  names = [*abstention.outcomes([])]
  counts = np.array([[one[name] for name in names] for one in sums], float)
  compute = lambda index: metric(dict(zip(names, counts[index].sum(0), strict=True)))
  return PerQuestion(compute=compute, **_of(asked))


def _separation(asked: Sequence[Asked], confidence: Callable[[Asked], float]) -> PerQuestion:
  """How often a right answer has more confidence than one that is not."""
  sure = np.array([min(confidence(one), 1.0) for one in asked])
  right = np.array([one.probe.outcome == 'right' for one in asked], float)
  return PerQuestion(compute=lambda index: auroc(sure[index], right[index]), **_of(asked))


def _of(asked: Sequence[Asked]) -> Any:
  subjects = tuple(knowledge.subject_of(one.question) for one in asked)
  keys = tuple(str(one.question['prompt']) for one in asked)
  return {'keys': keys, 'clusters': subjects if len({*subjects}) < len(subjects) else ()}


def _metric(one: PerQuestion) -> Any:
  if one.scores is not None:
    return Mean.of(one.scores)
  assert one.compute is not None
  value = one.compute(np.arange(len(one.keys)))
  return Counts({'value': value}, lambda sums: sums['value'])
