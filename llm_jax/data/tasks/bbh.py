"""BIG-Bench Hard (arXiv:2210.09261): 23 kinds of reasoning in 27 tasks, which are the subjects.

The examples are those of the authors' prompts, `cot-prompts/<task>.txt`, of which the first one
begins with what the task is. With `thinking` they have the steps that lead to the answer, and else
the answers alone.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

from llm_jax.data.tasks import columns
from llm_jax.data.tasks.task import Item, Record, Task

_STEPS = " Let's think step by step."
_ANSWER = re.compile(r'the answer is (.*)', re.IGNORECASE)


def make(*, thinking: bool = True, subjects: Sequence[str] = ()) -> Task:
  """The task, with all subjects or some."""
  return Task(
    read=columns.chosen(functools.partial(read, thinking=thinking), subjects),
    files={
      'test': (
        'bbh/*.json',
        'BIG-Bench-Hard*/bbh/*.json',
        'bbh/*/test-*.parquet',
        '*--bbh/snapshots/*/*/test-*.parquet',
      ),
      'prompts': ('cot-prompts/*.txt',),
    },
    kind='generate',
    split='test',
    examples='prompts',
    shots=3,
    draw='first',
    delimiter='' if thinking else ' ',
    judge=functools.partial(judge, thinking=thinking),
    stop=('\n\n', 'Q:', '</s>'),
    max_new=512 if thinking else 32,
    source='arXiv:2210.09261',
  )


def read(record: Record, thinking: bool) -> Iterator[Item]:
  """The questions of a file, of a row of the hub, or the examples of a prompt."""
  subject = record['folder'] if record['file'].startswith('test-') else record['file']
  if 'text' in record:
    yield from _examples(columns.text(record, 'text'), subject, thinking)
    return
  for one in record.get('examples', [record]):
    context = _asked(columns.text(one, 'input'), thinking)
    target = columns.text(one, 'target')
    yield Item(context, gold=target, answer=target, subject=subject)


def _asked(question: str, thinking: bool) -> str:
  return f'Q: {question}\nA:' + (f'{_STEPS}\n' if thinking else '')


def _examples(prompt: str, subject: str, thinking: bool) -> Iterator[Item]:
  text = prompt.rpartition('-----\n')[2].strip()
  what, *shown = re.split(r'\n\nQ: ', text)
  for i, one in enumerate(shown):
    question, _, answer = one.partition('\nA:')
    said = answer.removeprefix(_STEPS).strip()
    if not thinking:
      said = final(said)
    before = f'{what}\n\n' if i == 0 else ''
    yield Item(f'{before}{_asked(question, thinking)}', gold=said, answer=said, subject=subject)


def judge(said: str, item: Item, thinking: bool) -> Mapping[str, float]:
  """Whether the answer is the gold one; with steps, what stands behind 'the answer is'."""
  return {'acc': float((final(said) if thinking else said.strip()) == item.gold.strip())}


def final(said: str) -> str:
  """What a text says is the answer, without its last point; '' where it says none.

  >>> final('Not True is False. So the answer is False.')
  'False'
  """
  found = _ANSWER.search(said)
  return found[1].strip().removesuffix('.') if found else ''
