"""Problems whose answer is written and compared as a number, a formula or a set."""

from collections.abc import Callable, Iterable, Mapping

from llm_jax.data.questions import gold_of
from llm_jax.data.tasks.places import Files
from llm_jax.data.tasks.task import Item, Record, Task
from llm_jax.rewards import math_equal


def task(
  read: Callable[[Record], Iterable[Item]],
  files: Files,
  *,
  stop: tuple[str, ...] = ('\n\nQuestion:',),
  split: str = 'test',
  shots: int = 0,
  max_new: int = 256,
  source: str,
) -> Task:
  """A task that is judged by rewards/math_equal.py; its gold answers are texts."""
  return Task(
    read=read,
    files=files,
    kind='generate',
    split=split,
    shots=shots,
    judge=judge,
    stop=stop,
    max_new=max_new,
    source=source,
  )


def judge(said: str, item: Item) -> Mapping[str, float]:
  """Whether the final answer equals the gold one."""
  return {'acc': math_equal.reward(said, item.gold)}


def item(question: str, gold: object, *, answer: str = '', subject: str = '') -> Item:
  """A question, its gold answer, which may be a number or a solution, and what an example says."""
  found = gold_of(gold)
  if not found:
    raise ValueError('its answer is empty')
  context = f'Question: {question}\nAnswer:'
  return Item(context, gold=found, answer=answer or f'The answer is {found}.', subject=subject)
