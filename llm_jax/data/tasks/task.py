"""What a benchmark is: questions as text, and how they are put and scored.

A file of this folder has `make(**variant) -> Task`; so has a file of yours. Nothing here knows of
ids or models: `evals/` puts the questions to a model, and everything in this folder can be tested
and read without one.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

# How questions of a task are put, and what `Item.gold` is.
#   choices   each choice is scored behind the context: the index of the right one
#   several   the same, where several choices may be right: the indices of those
#   text      the only choice is scored: None
#   rolling   the only choice is a whole document, scored from its begin on: None
#   generate  the model writes: whatever `Task.judge` compares it with
Kind = Literal['choices', 'several', 'text', 'rolling', 'generate']


class Item(NamedTuple):
  """A question.

  Attributes:
    context: what a model reads first, without examples and without a blank at its end.
    choices: what is scored behind it, without the delimiter; of `generate` nothing.
    gold: what is right, see Kind.
    contexts: where the contexts differ and the choices are the same (WinoGrande), one for each
      choice; `context` is then unused.
    answer: what an example has behind its context; by default the right choice.
    subject: examples come from the same one, and means of groups are over these.
    cluster: questions with the same one, such as a passage, are not independent.
    stem: the question itself without its options, where it can be asked in several forms.
    options: texts of all answers, where `choices` are letters.
    about: what a judge needs besides, such as the tests of a program.
    key: names the question in its file; whoever reads the file writes it.
  """

  context: str
  choices: tuple[str, ...] = ()
  gold: Any = None
  contexts: tuple[str, ...] = ()
  answer: str = ''
  subject: str = ''
  cluster: str = ''
  stem: str = ''
  options: tuple[str, ...] = ()
  about: Mapping[str, Any] = {}
  key: str = ''


Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A benchmark.

  Attributes:
    read: the questions of a record: none, one or several. Its columns `file` and `folder` are the
      names of where it lies.
    files: split -> the places where it usually lies below the folder of all benchmarks; the first
      one that is there is read, see `files.py`.
    kind: how questions are put.
    metrics: what is reported, names of `evals/task_metrics.py` or keys that `judge` gives; the
      first one stands for the task in means over tasks.
    mean_of: metrics whose mean does so instead, as GLUE has it for tasks with two.
    chance: the first metric of a model that guesses.
    join: what several records make together, where a question has more than one of them.
    called: split -> what a dataset with splits of its own calls it, where that differs.
    split: that is evaluated.
    examples: the split that examples are from.
    shots: how many of them, by default.
    draw: which ones, by default: the first of the split, or others for each question.
    description: what precedes examples; from the subject.
    delimiter: between a context and what is scored or stands behind it.
    separator: between examples.
    judge: of `generate`: scores by name of (what was said, item).
    stop: of `generate`: texts that end what is said.
    max_new: of `generate`: most tokens that are said.
    source: paper or page.
  """

  read: Callable[[Record], Iterable[Item]]
  files: Mapping[str, Sequence[str]]
  kind: Kind = 'choices'
  metrics: tuple[str, ...] = ('acc',)
  mean_of: tuple[str, ...] = ()
  chance: float = 0.0
  join: Callable[[Iterable[Record]], Iterable[Record]] | None = None
  called: Mapping[str, str] = dataclasses.field(default_factory=dict)
  split: str = 'validation'
  examples: str = 'train'
  shots: int = 0
  draw: Literal['first', 'seeded'] = 'seeded'
  description: Callable[[str], str] = lambda subject: ''
  delimiter: str = ' '
  separator: str = '\n\n'
  judge: Callable[[str, Item], Mapping[str, float]] | None = None
  stop: tuple[str, ...] = ()
  max_new: int = 256
  source: str = ''


def example(item: Item, task: Task) -> str:
  """A question with its answer, as it stands before another one."""
  gold = item.gold if len(item.choices) > 1 else 0
  answer = item.answer or item.choices[gold]
  context = item.contexts[item.gold] if item.contexts else item.context
  return f'{context}{task.delimiter}{answer}'
