"""Tasks of GLUE and SuperGLUE whose answer is a word behind one or two texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from llm_jax.data.tasks import columns
from llm_jax.data.tasks.places import Files
from llm_jax.data.tasks.task import Item, Record, Task

GLUE, SUPERGLUE = 'arXiv:1804.07461', 'arXiv:1905.00537'


def task(
  ask: Callable[[Record], str],
  words: Sequence[str],
  files: Files,
  *,
  labels: Sequence[str] = (),
  label: Sequence[str] = ('label',),
  metrics: tuple[str, ...] = ('acc',),
  split: str = 'validation',
  called: Mapping[str, str] = {},
  source: str = GLUE,
) -> Task:
  """A task.

  Args:
    ask: what stands before the answer.
    words: the answer to each class.
    files: of the task.
    labels: names of the classes, where files have these.
    label: the columns that may hold them.
    metrics: of the task; where there are two, their mean stands for it.
    split: that is evaluated.
    called: what datasets call splits.
    source: of the benchmark.
  """

  def read(record: Record) -> Iterator[Item]:
    gold = columns.label(columns.column(record, *label), labels)
    yield Item(ask(record), tuple(words), gold)

  return Task(
    read=read,
    files=files,
    metrics=metrics,
    mean_of=metrics if len(metrics) > 1 else (),
    chance=0.0 if 'mcc' in metrics else 1 / len(words),
    split=split,
    called=called,
    source=source,
  )


def question(text: str, asked: str) -> str:
  """A text, what is asked of it, and the place of the answer."""
  return f'{text}\nQuestion: {asked}\nAnswer:'
