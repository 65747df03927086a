"""Where looking up goes wrong: no call, a wrong query, a result without the answer, or the answer.

Questions are those of `data.knowledge`. Every metric is a share of all questions of a class, so
that the first that is low says what to mend.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from llm_jax.data import knowledge
from llm_jax.evals.estimates import PerQuestion
from llm_jax.options import Count, Seed
from llm_jax.rewards import honest
from llm_jax.rewards.thoughts import said
from llm_jax.sampling import complete
from llm_jax.sampling.calls import Tools
from llm_jax.text import calls
from llm_jax.text.templates import MARKS
from llm_jax.types import BadInput, Evaluate, Mean, Model, Params, Tokenizer

CLASSES = ('taught', 'read', 'unread', 'invented', 'lookalike')
TOOL = 'search'
_FOLLOWS = 0.8  # of the words of an answer stand in what was found


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  tools: Tools | None = None,
  classes: Sequence[str] = CLASSES,
  split: Literal['train', 'validation', 'test'] = 'test',
  most: Count | None = 200,
  template: str | None = None,
  max_new: Count = 64,
  batch_size: Count = 64,
  seed: Seed = 0,
  record: Callable[[Mapping[str, Any], str], None] | None = None,
  per_question: Callable[[str, PerQuestion], None] | None = None,
) -> Evaluate:
  """`evaluate(params) -> {'<class>/<metric>': Mean}`.

  Metrics are `called`, `query` (it is the name), `found` (the result has the name), `follows` (the
  answer is in the result's words, or a refusal where it lacks the name), `right`, `invention`,
  `refused` and `tokens` (that were sampled).

  Args:
    model: a causal language model.
    tokenizer: of the model.
    tools: what it may call, `search` among them.
    classes: of questions, see data/knowledge.py.
    split: 'train', 'validation' or 'test', by name.
    most: questions of each class; None for all.
    template: the chat template of the model.
    max_new: most tokens of an answer; what tools say does not count.
    batch_size: questions at a time.
    seed: of the sampling, which is greedy.
    record: called with each question and its answer.
    per_question: called with the name of each metric, and what it is on each question.
  """
  if tools is None or TOOL not in tools.by_name:
    raise BadInput('searches: there is no search to call; set tools.search={}')
  check(model, classes=classes)
  questions = knowledge.questions(split, classes=classes, most=most)
  if not questions:
    raise BadInput(f'searches: no questions of {", ".join(classes)} in the {split} split')
  ask = complete.make(
    model,
    tokenizer,
    prompts=[question['prompt'] for question in questions],
    template=template or 'plain',
    tools=tools,
    max_new=max_new,
    temperature=0.0,
    batch_size=batch_size,
    seed=seed,
  )

  def evaluate(params: Params) -> Any:
    answers = ask(params)
    if record is not None:
      for question, answer in zip(questions, answers, strict=True):
        record(question, answer)
    found: dict[str, dict[str, float]] = {}
    for question, answer in zip(questions, answers, strict=True):
      facts = {**looked_up(question, answer, tools), 'tokens': len(tokenizer.encode(answer))}
      for name, value in facts.items():
        key = f'{question["class"]}/{name}'
        found.setdefault(key, {})[str(question['prompt'])] = float(value)
    if per_question is not None:
      for key, values in found.items():
        scores = np.array([*values.values()])
        per_question(key, PerQuestion(keys=(*values,), scores=scores))
    return {key: Mean.of([*values.values()]) for key, values in found.items()}

  return evaluate


def looked_up(question: Mapping[str, Any], completion: str, tools: Tools) -> dict[str, bool]:
  """What became of one question.

  Args:
    question: with `name` and `answer`.
    completion: with its calls spelled out.
    tools: what was called.
  """
  start, end = MARKS['search']
  _, called, rest = completion.partition(start)
  name, text = calls.read(rest.partition(end)[0], tools.by_name) if called else ('', '')
  result = ''
  if name == TOOL:
    try:
      result = tools.by_name[TOOL](text)
    except (ValueError, OSError):
      result = ''
  has = bool(re.search(rf'(?<![\w.]){re.escape(question["name"])}(?!\w)', result))
  answer = said(completion).answer
  outcome = honest.outcome(completion, question['answer'], question.get('also', ()))
  words = answer.lower().split()[1:]  # the first is 'It'
  shared = np.mean([word.strip('.,`"') in result.lower() for word in words]) if words else 0.0
  follows = shared >= _FOLLOWS if has else outcome == 'refused'
  return {
    'called': name == TOOL,
    'query': name == TOOL and text.strip('` ') == question['name'],
    'found': has,
    'follows': bool(name == TOOL and follows),
    'right': outcome == 'right',
    'invention': outcome == 'wrong',
    'refused': outcome == 'refused',
  }


def check(model: Model, *, classes: Sequence[str] = CLASSES, **others: Any) -> None:
  """Whether there are such classes, and the model can answer."""
  del others
  knowledge.check(classes)
  complete.check_speaks(model, 'searches')
