"""A benchmark, put to a model: its questions scored or answered, and what that is worth."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from llm_jax.data.tasks import files, own
from llm_jax.data.tasks.task import Item, Task
from llm_jax.evals import asking, task_metrics
from llm_jax.evals.estimates import PerQuestion
from llm_jax.evals.kept import Kept, Progress, asked_once
from llm_jax.evals.likelihood import Likelihood, Request, Scored, Text
from llm_jax.evals.task_metrics import Answered
from llm_jax.find import call, find, last
from llm_jax.options import Count, NotNegative, Seed, at_least
from llm_jax.sampling import complete
from llm_jax.text import chat
from llm_jax.text.terminal import say
from llm_jax.types import JUDGES, BadInput, Evaluate, Metrics, Model, Params, Tokenizer

LABELLED = ('validation', 'test')  # splits that are evaluated; others are for training or examples
METRICS = lambda options: _names(options)


def make(
  model: Model,
  tokenizer: Tokenizer,
  *,
  task: str,
  path: str,
  mesh: Any,
  variant: Mapping[str, Any] | None = None,
  split: str = '',
  shots: Annotated[int, at_least(0)] | None = None,
  examples: str = '',
  max_examples: Count | None = None,
  draw: Literal['', 'first', 'seeded', 'lm_eval'] = '',
  metric: str = '',
  chance: Annotated[float, at_least(0, below=1)] | None = None,
  form: Literal['', 'letters', 'full'] = '',
  mutual_info: bool = False,
  too_long: Literal['drop', 'cut'] = 'drop',
  control: bool = False,
  max_questions: Count | None = None,
  in_chat: bool = False,
  template: str | None = None,
  max_new: Count | None = None,
  samples: Count = 1,
  temperature: NotNegative = 0.0,
  batch_tokens: Count | None = None,
  batch_size: Count = 32,
  seed: Seed = 0,
  record: Callable[[Mapping[str, Any], str], None] | None = None,
  per_question: Callable[[str, PerQuestion], None] | None = None,
  kept: Kept | None = None,
  progress: Progress | None = None,
) -> Evaluate:
  """`evaluate(params) -> Metrics`: those that the task names, `questions`, and what was cut.

  Args:
    model: a causal language model.
    tokenizer: of the model.
    task: a file of data/tasks, or one of yours: Python, or the JSON lines of data/tasks/own.py.
    path: the folder of all benchmarks, or the files of this one, see data/tasks/files.py.
    mesh: where batches go.
    variant: keyword arguments of the task's `make`.
    split: that is evaluated; by default what the task says, or the one whose files are there.
    shots: examples before each question; by default what the task says.
    examples: the split that they are from, or files of them; by default what the task says.
    max_examples: they are from the first so many of it; None for all.
    draw: which ones: the first of the split, others for each question ('seeded'), or those that
      lm-eval draws; by default what the task says.
    metric: what stands for the task in means over tasks, and is reported too; by default what the
      task says.
    chance: what a guess gets in it; by default what the task says.
    form: asks for 'letters' or for 'full' answers, where a task has both.
    mutual_info: scores choices without their context as well, for `acc_mutual_info`.
    too_long: leaves whole examples out ('drop'), or cuts the begin as lm-eval does ('cut').
    control: every question gets the context of another, to see whether the model reads it.
    max_questions: the first so many; None for all.
    in_chat: questions and examples are turns of a conversation in the model's template.
    template: the chat template of the model.
    max_new: most tokens of an answer that is written; by default what the task says.
    samples: answers to each question that are written; scores are means over them, and `pass@k` is
      that of the one which passes among k of them.
    temperature: of answers that are written; 0 is greedy.
    batch_tokens: places in a batch, for each device; by default what suits it.
    batch_size: answers written at a time.
    seed: of drawing examples.
    record: called with each question, its scores among it, and what was said.
    per_question: called with the name of each metric, and what it is on each question.
    kept: answers of this model from before.
    progress: called with an iterable and how many questions it will answer; gives it back.

  Raises:
    BadInput: a file that is missing, examples from the split that is evaluated, a question without
      room.
  """
  benchmark, of_split, from_split = _settled(task, variant, split, shots, examples, path)
  if not split and of_split != benchmark.split:
    say(f'{task}: its {of_split} split is evaluated; {path} has no {benchmark.split} split.')
  if metric and metric != benchmark.metrics[0]:
    others = tuple(name for name in benchmark.metrics if name != metric)
    benchmark = dataclasses.replace(benchmark, metrics=(metric, *others), mean_of=())
  if chance is not None:
    benchmark = dataclasses.replace(benchmark, chance=chance)
  count = benchmark.shots if shots is None else shots
  items = files.items(task, benchmark, of_split, path, max_questions)
  pool = pool_of(task, benchmark, from_split, path, max_examples) if count else []
  if form:
    items, pool = ([asking.formed(item, form) for item in some] for some in (items, pool))
  if control:
    items = asking.swapped(items, seed)
  if in_chat and not template:
    raise BadInput(f'{task}: in_chat needs a model with a chat template; this one has none')
  found = chat.find_template(template, tokenizer) if in_chat and template else None
  room = model.shape.max_length
  writes = benchmark.kind == 'generate'
  length = max_new or benchmark.max_new
  if writes and length >= room:
    raise BadInput(f'{task}: max_new {length} leaves no room for a question in {room} tokens')
  if samples > 1 and not (writes and temperature):
    why = 'are the same at temperature 0' if writes else 'are for tasks whose answers are written'
    raise BadInput(f'{task}: {samples} samples {why}; set samples to 1, or a temperature')
  try:
    asker = asking.Asker(
      tokenizer=tokenizer,
      task=benchmark,
      room=room - length if writes else room,
      pool=pool,
      shots=count,
      draw=draw or benchmark.draw,
      too_long=too_long,
      template=found,
      seed=seed,
    )
    asked = _windows(items, tokenizer, room) if benchmark.kind == 'rolling' else asker(items)
  except BadInput as error:
    raise BadInput(f'{task}: {error}') from None

  if writes:
    answer = functools.partial(
      _written, model=model, tokenizer=tokenizer, task=benchmark, max_new=length,
      samples=samples, temperature=temperature, batch_size=batch_size, template=found, seed=seed,
      kept=kept, progress=progress,
    )  # fmt: skip
  else:
    alone = alone_of(items, tokenizer, benchmark) if mutual_info else None
    engine = Likelihood(model, mesh, batch_tokens)
    answer = functools.partial(_scored, engine=engine, task=benchmark, alone=alone)
    answer = functools.partial(answer, kept=kept, progress=progress)

  def evaluate(params: Params) -> Metrics:
    answered = answer(params, items, asked)
    if record is not None:
      for one, how in zip(answered, asked, strict=True):
        record({**_row(task, one, how), 'split': of_split}, str(one.said))
    if per_question is not None:
      for name, metric in task_metrics.per_question(benchmark, answered).items():
        per_question(name, metric)
    return task_metrics.metrics(benchmark, answered)

  return evaluate


def check(
  model: Model,
  *,
  task: str,
  path: str,
  variant: Mapping[str, Any] | None = None,
  split: str = '',
  shots: int | None = None,
  examples: str = '',
  **others: Any,
) -> None:
  """Whether there is such a task, its files begin with questions, and the model can be asked."""
  del others
  benchmark, of_split, from_split = _settled(task, variant, split, shots, examples, path)
  if not (own.is_own(task) or files.is_there(path)):
    raise BadInput(f'{task}: there is no folder {path!r}; set path to that of the benchmarks')
  if not model.shape.causal:
    raise BadInput(f'{task}: this is a masked language model; it does not continue texts')
  if kind := JUDGES.get(model.shape.head):
    raise BadInput(f'{task}: this is {kind}; it continues no text')
  if own.is_own(task) or Path(path).expanduser().is_dir():  # others may be made before it is asked
    files.items(task, benchmark, of_split, path, 1)
    if benchmark.shots if shots is None else shots:
      pool_of(task, benchmark, from_split, path, 1)


def _settled(
  task: str,
  variant: Mapping[str, Any] | None,
  split: str,
  shots: int | None,
  examples: str,
  path: str,
) -> tuple[Task, str, str]:
  """The task, the split that is evaluated and that of its examples.

  Where nobody named a split, and the files have labels for another one alone, it is that one.
  """
  benchmark = task_of(task, variant)
  there = [one for one in files.splits(benchmark, path) if one in LABELLED]
  if not split and there and benchmark.split not in there:
    split = there[0]
  split, examples = split or benchmark.split, examples or benchmark.examples
  if split not in benchmark.files:
    raise BadInput(f'{task}: no split {split!r}; it has: {", ".join(benchmark.files)}')
  if (benchmark.shots if shots is None else shots) and examples == split:
    raise BadInput(
      f'{task}: examples from the split {split!r} that is evaluated show its answers; set '
      'examples to another one, or shots to 0'
    )
  return benchmark, split, examples


def task_of(name: str, variant: Mapping[str, Any] | None = None) -> Task:
  """A task by its name, which is a file of data/tasks or one of yours."""
  if own.is_own(name):
    if variant:
      raise BadInput(f'{name}: questions of yours have no variants; leave config.variant out')
    return own.task(name)
  return call(find('data.tasks', name).make, dict(variant or {}), where='variant')


def pool_of(task: str, benchmark: Task, split: str, path: str, most: int | None) -> list[Item]:
  """The questions that examples are drawn from, of a split or of files."""
  if split not in benchmark.files and ('/' in split or '.' in split):
    benchmark, path, split = dataclasses.replace(benchmark, files={'train': ()}), split, 'train'
  return files.items(task, benchmark, split, path, most)


def _windows(items: Sequence[Item], tokenizer: Tokenizer, room: int) -> list[asking.Asked]:
  begin = tokenizer.begin or (tokenizer.eos_id,)
  found = []
  for ids in tokenizer.encode_batch([item.choices[0] for item in items]):
    requests = asking.rolling(ids, begin, room)
    found.append(asking.Asked(requests, [(i, 0) for i in range(len(requests))], ''))
  return found


def alone_of(items: Sequence[Item], tokenizer: Tokenizer, task: Task) -> list[Request]:
  """The choices of each question behind the begin of a document alone."""
  begin = tokenizer.begin or (tokenizer.eos_id,)
  texts = [f'{task.delimiter}{choice}' for item in items for choice in item.choices]
  ids = iter(tokenizer.encode_batch(texts))
  return [Request(begin, tuple(Text(tuple(next(ids))) for _ in item.choices)) for item in items]


def _scored(
  params: Params,
  items: Sequence[Item],
  asked: Sequence[asking.Asked],
  *,
  engine: Likelihood,
  task: Task,
  alone: Sequence[Request] | None,
  kept: Kept | None,
  progress: Progress | None,
) -> list[Answered]:
  """The answers of a model that scores."""
  requests = [request for one in asked if not one.failed for request in one.requests]
  found = dict(with_kept(engine, params, [*requests, *(alone or ())], kept, progress))
  after = iter(range(len(requests)))
  answered = []
  for i, (item, one) in enumerate(zip(items, asked, strict=True)):
    if one.failed:
      answered.append(Answered(item, None, {}, failed=one.failed))
      continue
    numbers = [next(after) for _ in one.requests]
    scored = [found[numbers[number]][j] for number, j in one.places]
    texts = [one.requests[number].texts[j] for number, j in one.places]
    tokens = [len(text.ids) - text.skip for text in texts]
    if task.kind == 'rolling':
      nats = sum(one.logp for one in scored)
      said, scores = 0, task_metrics.of_document(item, nats, sum(tokens))
    else:
      base = found[len(requests) + i] if alone else None
      said, scores = task_metrics.of_choices(item, task, scored, tokens, base)
    logp = tuple(one.logp for one in scored)
    answered.append(Answered(item, said, scores, logp, one.cut, one.shots))
  return answered


def with_kept(
  engine: Likelihood,
  params: Params,
  requests: Sequence[Request],
  kept: Kept | None,
  progress: Progress | None,
) -> Iterator[tuple[int, list[Scored]]]:
  """(number, scores) of each request; what is kept is not asked again, and each is asked once."""
  same: dict[Request, list[int]] = {}
  for i, request in enumerate(requests):
    same.setdefault(request, []).append(i)
  unique = [*same]
  ask = lambda numbers, known: engine(params, [unique[i] for i in numbers], known)
  for i, scored in asked_once(unique, ask, kept, progress):
    found = [Scored(*one) for one in scored]
    yield from ((j, found) for j in same[unique[i]])


def _written(
  params: Params,
  items: Sequence[Item],
  asked: Sequence[asking.Asked],
  *,
  model: Model,
  tokenizer: Tokenizer,
  task: Task,
  max_new: int,
  samples: int,
  temperature: float,
  batch_size: int,
  template: chat.ChatTemplate | None,
  seed: int,
  kept: Kept | None,
  progress: Progress | None,
) -> list[Answered]:
  """The answers of a model that writes; several to a question have the mean of their scores."""
  if task.judge is None:
    raise BadInput('a task whose answers are written needs a judge')
  run = complete.sampler(
    model, tokenizer, template, max_new=max_new, stop_strings=task.stop, temperature=temperature
  )
  there = [i for i, one in enumerate(asked) if not one.failed]
  ids = [list(asked[i].requests[0].context) for i in there for _ in range(samples)]

  def ask(numbers: Sequence[int], known: Collection[int]) -> Iterator[tuple[int, list[int]]]:
    prompts = [ids[i] for i in numbers]
    found = complete.batches(run, params, prompts, batch_size=batch_size, seed=seed, known=known)
    yield from ((place, some.tolist()) for place, some in found)

  questions = [
    [some, max_new, list(task.stop), *([temperature, seed, i % samples] if temperature else ())]
    for i, some in enumerate(ids)
  ]
  said = dict(asked_once(questions, ask, kept, progress))
  texts = iter([_until(tokenizer.decode(said[i]), task.stop) for i in range(len(ids))])
  answered = []
  for item, one in zip(items, asked, strict=True):
    if one.failed:
      answered.append(Answered(item, None, {}, failed=one.failed))
      continue
    some = [next(texts) for _ in range(samples)]
    scores = task_metrics.of_samples([task.judge(text, item) for text in some])
    answered.append(Answered(item, '\n---\n'.join(some), scores, cut=one.cut, shots=one.shots))
  return answered


def _until(text: str, stop: Sequence[str]) -> str:
  """The text up to the first place where one of these begins."""
  for end in stop:
    text = text.partition(end)[0]
  return text


def _row(task: str, answered: Answered, asked: asking.Asked) -> dict[str, Any]:
  """What is kept of a question."""
  item = answered.item
  return {
    'task': last(task),
    'key': item.key,
    'subject': item.subject,
    'cluster': item.cluster,
    'prompt': asked.prompt,
    'choices': list(item.choices),
    'gold': item.gold,
    'said': answered.said,
    'logp': list(answered.logp),
    'scores': dict(answered.scores),
    'shots': answered.shots,
    'cut': answered.cut,
    'failed': answered.failed,
  }


def _names(options: Mapping[str, Any]) -> Sequence[str] | None:
  """Names of the metrics; None where answers decide which there are."""
  names = task_of(options['task'], options['variant']).metrics
  if {'acc_norm', 'pass@1'} & {*names}:
    return None
  return [*names, 'mean', 'questions', 'cut', 'failed']
