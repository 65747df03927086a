"""GSM8K (arXiv:2110.14168): word problems of primary school, answered in sentences.

Two filters find the number, those of lm-eval. `strict` wants the `#### 18` of the examples, so it
measures the form as well; `flexible` takes the last number. Signs that do not matter are then left
out, and the rest has to be equal.
"""

import re
from collections.abc import Iterator, Mapping

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task

INVALID = '[invalid]'
STOP = ('Question:', '</s>', '<|im_end|>')
_STRICT = re.compile(r'#### (-?[0-9.,]+)')
_FLEXIBLE = re.compile(r'-?[$0-9.,]{2,}|-?[0-9]+')


def make() -> Task:
  """The task."""
  files = {
    split: (
      *places.hub('gsm8k', 'main', split),
      f'grade_school_math/data/{split}.jsonl',
      f'gsm8k/{split}.jsonl',
      f'gsm8k_{split}.jsonl',
    )
    for split in ('train', 'test')
  }
  return Task(
    read=read,
    files=files,
    kind='generate',
    metrics=('strict', 'flexible'),
    split='test',
    shots=5,
    judge=judge,
    stop=STOP,
    source='arXiv:2110.14168',
  )


def read(record: Record) -> Iterator[Item]:
  """A problem; the gold answer is the whole solution."""
  question, answer = columns.text(record, 'question'), columns.text(record, 'answer')
  yield Item(f'Question: {question}\nAnswer:', gold=answer, answer=answer)


def judge(said: str, item: Item) -> Mapping[str, float]:
  """Whether the number that either filter finds is that of the solution."""
  gold = _bare(item.gold)
  found = {'strict': strict(said), 'flexible': flexible(said)}
  return {name: float(_bare(text) == gold) for name, text in found.items()}


def strict(said: str) -> str:
  """The number behind the first `#### `.

  >>> strict('2 + 3 = 5\\n#### 5'), strict('The answer is 5.')
  ('5', '[invalid]')
  """
  found = _STRICT.findall(said)
  return found[0] if found else INVALID


def flexible(said: str) -> str:
  """The last number, with the signs that belong to it.

  >>> flexible('It costs $18.50 for 3'), flexible('The answer is 7.')
  ('3', '7.')
  """
  found = _FLEXIBLE.findall(said)
  return found[-1] if found else INVALID


def _bare(text: str) -> str:
  """A number without what stands before `#### `, without commas, dollars and a last point.

  >>> _bare('6 * 3 = 18\\n#### $1,018.')
  '1018'
  """
  text = re.sub(r'[,$]', '', text)
  return re.sub(r'\.$', '', re.sub(r'(?s).*#### ', '', text)).lower()
