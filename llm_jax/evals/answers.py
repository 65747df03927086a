"""Questions answered and scored by plain functions: what a chat model can do."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np

from llm_jax.data import families as builtin
from llm_jax.data import questions as formats
from llm_jax.data import records
from llm_jax.data.formats import BadRow
from llm_jax.evals.estimates import PerQuestion
from llm_jax.find import find, last
from llm_jax.options import Count, NotNegative, Seed, TopP, suggest
from llm_jax.options import check as check_options
from llm_jax.rewards import columns
from llm_jax.rewards.thoughts import Said, said
from llm_jax.sampling import complete
from llm_jax.sampling.calls import Tools
from llm_jax.types import BadInput, Evaluate, Mean, Metrics, Model, Params, Tokenizer

Question = Mapping[str, Any]
# (questions, completions) -> a number for each, or None where there is nothing to say.
Judge = Callable[[Sequence[Question], Sequence[str]], Sequence[float | None]]

# What the answers of each builtin family are asked for: files of rewards/.
SCORES = {
  'word_problems': ('exact_answer', 'reasons_first'),
  'python_questions': ('word_overlap', 'same_text'),
  'instructions': ('word_overlap', 'same_text'),
  'spelling': ('same_text',),
  'small_talk': ('mentions',),
}
METRICS = lambda options: _names(options)


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  families: Sequence[str] = (),
  sources: Mapping[str, str] | None = None,
  questions: Sequence[Question] = (),
  prompts: Sequence[str] = (),
  split: Literal['train', 'validation', 'test'] = 'test',
  max_questions: Count | None = 200,
  second: bool = False,
  scores: Sequence[str] = (),
  options: Mapping[str, Mapping[str, Any]] | None = None,
  template: str | None = None,
  tools: Tools | None = None,
  max_new: Count = 96,
  temperature: NotNegative = 0.0,
  top_k: Count | None = None,
  top_p: TopP | None = None,
  batch_size: Count | None = None,
  seed: Seed = 0,
  record: Callable[[Question, str], None] | None = None,
  per_question: Callable[[str, PerQuestion], None] | None = None,
) -> Evaluate:
  """`evaluate(params) -> {'<family>/<score>': Mean}`.

  Args:
    model: a causal language model.
    tokenizer: of the model.
    families: of builtin questions, see data/families.py.
    sources: name of a family -> files of its questions, in a format of data/questions.py.
    questions: more of them: `prompt` (messages), `answer` (gold text) and `family`.
    prompts: texts that are asked as well and have no score.
    split: 'train', 'validation' or 'test'; of `sources` 'test' is all of a file, and the other two
      are its parts in training.
    max_questions: of each family; None for all.
    second: whether each question comes second: behind the one before it in its family, and the
      answer that was wanted of that.
    scores: what every family is scored by, files of rewards/ or of yours; by default SCORES.
    options: name of a score -> keyword arguments of its function.
    template: the chat template of the model. One that never saw a conversation is asked in the way
      of the text it knows.
    tools: what the model may call; the questions list them in a system message.
    max_new: most tokens of an answer; what tools say does not count.
    temperature: of the answers; 0 is greedy.
    top_k: only the k likeliest tokens.
    top_p: only the fewest tokens whose probabilities reach p.
    batch_size: questions at a time; by default all of them.
    seed: of the sampling.
    record: called with each question and its answer; a prompt is a question with nothing else.
    per_question: called with the name of each metric, and what it is on each question.

  Raises:
    BadInput: nothing to ask, or it cannot be asked or scored.
  """
  check(model, families=families, sources=sources, questions=questions, prompts=prompts)
  asked = [*questions]
  for family in families:
    asked += builtin.records('questions', split, family)[:max_questions]
  for name in sources or ():
    asked += islice(_read(name, sources or {}, split), max_questions)
  asked = behind(asked) if second else asked
  judges = judges_of({question['family'] for question in asked}, scores, options or {})
  ask = complete.make(
    model,
    tokenizer,
    prompts=[*prompts, *(question['prompt'] for question in asked)],
    template=template or 'plain',
    tools=tools,
    max_new=max_new,
    temperature=temperature,
    top_k=top_k,
    top_p=top_p,
    batch_size=batch_size,
    seed=seed,
  )

  def evaluate(params: Params) -> Metrics:
    said = ask(params)
    if record is not None:
      for question, answer in zip([*({'prompt': p} for p in prompts), *asked], said, strict=True):
        record(question, answer)
    found = scored(asked, said[len(prompts) :], judges)
    if per_question is not None:
      for name, values in found.items():
        there = {str(i): value for i, value in enumerate(values) if value is not None}
        per_question(name, PerQuestion(keys=(*there,), scores=np.array([*there.values()], float)))
    return _metrics(found)

  return evaluate


def check(
  model: Model,
  *,
  families: Sequence[str] = (),
  sources: Mapping[str, str] | None = None,
  questions: Sequence[Question] = (),
  prompts: Sequence[str] = (),
  **others: Any,
) -> None:
  """Whether there is something to ask, and the model can answer."""
  del others
  if not (families or sources or len(questions) or prompts):
    raise BadInput(f'answers: no families; choose from: {", ".join(builtin.FAMILIES)}')
  for family in families:
    if family not in builtin.FAMILIES:
      raise BadInput(f'answers: no family {family!r}; {suggest(family, builtin.FAMILIES)}')
  complete.check_speaks(model, 'answers')


def behind(questions: Sequence[Question]) -> list[Question]:
  """Each as the second question of a conversation, behind the one before it in its family.

  The first of a family comes behind the last one, and a single one behind itself.

  >>> ask = lambda said, answer: {'prompt': builtin.dialogue(said), 'answer': answer, 'family': ''}
  >>> found = behind([ask('What is 1 + 1?', '2'), ask('What is 2 + 2?', '4')])
  >>> [message['content'] for message in found[1]['prompt']]
  ['What is 1 + 1?', '2', 'What is 2 + 2?']
  """
  before = {one['family']: one for one in questions}
  found = []
  for one in questions:
    other, before[one['family']] = before[one['family']], one
    answer = {'role': 'assistant', 'content': other['answer']}
    found.append({**one, 'prompt': [*other['prompt'], answer, *one['prompt']]})
  return found


def _read(name: str, sources: Mapping[str, str], split: str) -> Iterator[Question]:
  """The questions in the files of a source; records that are broken are left out."""
  found = records.read(
    name,
    sources,
    lambda record: (formats.question(record), record),
    lambda item: item[0][0],
    kind='questions',
    split='train' if split == 'test' else split,
    validation_fraction=0.0 if split == 'test' else 0.01,
  )
  for _, item in found:
    if not isinstance(item, BadRow):
      (prompt, gold), record = item
      yield {**record, 'prompt': prompt, 'answer': gold, 'family': name}


def judges_of(
  families: Collection[str], scores: Sequence[str], options: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Judge]]:
  """Family -> name of a score -> what gives it.

  Raises:
    BadInput: a family without scores, or a score or an option that does not exist.
  """
  found = {}
  for family in sorted(families):
    if not scores and family not in SCORES:
      known = ', '.join(SCORES)
      raise BadInput(f'answers: no scores for {family!r}; choose from: {known}; or name scores')
    names = scores or SCORES[family]
    found[family] = {last(name): _judge(name, options.get(last(name), {})) for name in names}
  return found


def _judge(name: str, given: Mapping[str, Any]) -> Judge:
  module = find('rewards', name)
  function = getattr(module, 'rewards', None) or module.reward
  asked = columns.asked(function, given)
  check_options(function, given, where=f'answers.options.{last(name)}', offered=asked)
  if function is not getattr(module, 'rewards', None):
    return judge_of(partial(function, **given), asked)

  def judge(questions: Sequence[Question], completions: Sequence[str]) -> Sequence[float | None]:
    both = [_said(*pair) for pair in zip(questions, completions, strict=True)]
    rows = [_columns(*pair, asked) for pair in zip(questions, both, strict=True)]
    golds = [question['answer'] for question in questions]
    answers = [text.answer for text in both]
    return function(answers, golds, **given, **{k: [row[k] for row in rows] for k in asked})

  return judge


def _said(question: Question, completion: str) -> Said:
  """What was said after a prompt, without what was thought."""
  last = question['prompt'][-1]['content'] if question['prompt'] else ''
  return said(completion, last if isinstance(last, str) else '')


def _columns(question: Question, text: Said, asked: Sequence[str]) -> dict[str, Any]:
  record = columns.pack(question, question['prompt'], columns.of_record(asked))
  found = {**columns.unpack(record), 'thinking': text.thinking, 'completion': text.completion}
  return {name: found[name] for name in asked}


def judge_of(reward: Callable[..., float], asked: Sequence[str] = ()) -> Judge:
  """A reward of one answer, for many. An answer that it raises on counts 0.

  Where all of them meet a BadInput, something else is wrong: its options, or the gold answers.
  """

  def judge(questions: Sequence[Question], completions: Sequence[str]) -> list[float]:
    found, refused = [], []
    for question, completion in zip(questions, completions, strict=True):
      try:
        text = _said(question, completion)
        more = _columns(question, text, asked)
        found.append(float(reward(text.answer, question['answer'], **more)))
      except Exception as error:
        found.append(0.0)
        refused += [error] if isinstance(error, BadInput) else []
    if refused and len(refused) == len(found):
      raise refused[0]
    return found

  return judge


def score(
  questions: Sequence[Question],
  answers: Sequence[str],
  judges: Mapping[str, Mapping[str, Judge]] | None = None,
) -> Metrics:
  """The scores of `answers` to `questions`, by family.

  Args:
    questions: as those of `make`.
    answers: one for each; what is thought in them is not judged.
    judges: from `judges_of`; by default those of SCORES.

  Raises:
    BadInput: a family without scores.
  """
  return _metrics(scored(questions, answers, judges))


def _metrics(scores: Mapping[str, Sequence[float | None]]) -> Metrics:
  known = lambda values: [value for value in values if value is not None]
  return {name: Mean.of(known(values)) for name, values in scores.items()}


def scored(
  questions: Sequence[Question],
  answers: Sequence[str],
  judges: Mapping[str, Mapping[str, Judge]] | None = None,
) -> dict[str, Sequence[float | None]]:
  """'<family>/<score>' -> that of each answer to a question of the family; see `score`."""
  families = dict.fromkeys(question['family'] for question in questions)
  judges = judges_of(families, (), {}) if judges is None else judges
  both, found = [*zip(questions, answers, strict=True)], {}
  for family in families:
    asked = [question for question, _ in both if question['family'] == family]
    said = [answer for question, answer in both if question['family'] == family]
    for name, judge in judges[family].items():
      found[f'{family}/{name}'] = judge(asked, said)
  return found


def _names(options: Mapping[str, Any]) -> Sequence[str] | None:
  """Names of the metrics; None where questions are given as they are."""
  if options['questions']:
    return None
  families = {*options['families'], *(options['sources'] or {})}
  judges = judges_of(families, options['scores'], options['options'] or {})
  return [f'{family}/{name}' for family, some in judges.items() for name in some]
