"""HumanEval (arXiv:2107.03374): functions in Python, written from their docstrings and run.

Programs run confined, see rewards/sandbox.py. `pass@1` is the share that passes; more samples of a
question also give `pass@10` and `pass@100`.
"""

from collections.abc import Iterator, Mapping

from llm_jax.data.tasks import columns, places
from llm_jax.data.tasks.task import Item, Record, Task
from llm_jax.rewards import code_tests


def make() -> Task:
  """The task."""
  others = ('HumanEval.jsonl', 'human_eval.jsonl', 'humaneval.jsonl')
  return Task(
    read=read,
    files={
      'test': (
        *places.hub('openai_humaneval', '', 'test'),
        *places.hub('openai_humaneval', 'openai_humaneval', 'test'),
        *others,
      )
    },
    kind='generate',
    metrics=('pass@1',),
    split='test',
    judge=judge,
    stop=('\nclass', '\ndef', '\n#', '\nif', '\nprint'),
    max_new=512,
    source='arXiv:2107.03374',
  )


def read(record: Record) -> Iterator[Item]:
  """A function to write."""
  about = {name: columns.text(record, name) for name in ('test', 'entry_point')}
  gold = columns.text(record, 'canonical_solution')
  yield Item(columns.text(record, 'prompt'), gold=gold, answer=gold, about=about)


def judge(said: str, item: Item) -> Mapping[str, float]:
  """Whether what was written behind the prompt passes the tests."""
  passed = code_tests.reward(
    said,
    test=item.about['test'],
    entry_point=item.about['entry_point'],
    test_list=None,
    test_setup_code=None,
    test_imports=None,
    tests=None,
    prompt=item.context,
  )
  return {'pass@1': passed}
