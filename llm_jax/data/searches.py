"""Conversations that look a name up: from what was found they answer, or say that it is not there.

Four rows in seven find the name and answer from the first sentence. Two get a result without it,
since nobody has such a name, and refuse. One is about what SFT taught, and half of these answer
without a call. In some that find the name the result is exchanged for another one, which makes
refusing the right answer too: what decides is the result and not the name.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from llm_jax.data import knowledge, python_questions
from llm_jax.data.families import TOOLS, call, calling, dialogue
from llm_jax.data.pages import pages
from llm_jax.data.refusals import phrased
from llm_jax.options import MinP, at_least
from llm_jax.rewards import word_overlap
from llm_jax.text import calls

SHARES = {'found': 4, 'missing': 2, 'known': 1}
_ENOUGH = 0.6  # of the words of the answer stand in a result that has it
_PHRASINGS = 8  # questions about one name
_AWAY = 0.3  # of the pages that nobody has written, those of another name


def conversations(
  search: Callable[[str], str],
  probed: Sequence[Mapping[str, Any]] | None = None,
  *,
  refusals: bool = True,
  distractors: MinP = 0.1,
  made_up: Annotated[int, at_least(0)] = 0,
) -> list[dict[str, Any]]:
  """Rows about names of the train split of `data.knowledge`, in a mixed order.

  Args:
    search: the tool, `tools.search.make()`.
    probed: lines of `probe.jsonl`, of names to train on: what the model knows is known, and all
      else with an answer is looked up. By default the class decides, as if every taught name were
      known and none that was read.
    refusals: whether there are rows that refuse; without them a model answers from any result.
    distractors: share of the results with the name that are exchanged for others.
    made_up: so many rows more, in which the result is a page that nobody has written
      (`llm_jax.data.pages`): it has the name and the answer, or in three of ten another name.
  """
  rng = random.Random('searches')
  there, missing, known = _classes() if probed is None else _verdicts(probed)
  found = [one for one in there if _has(search(query(one['name'])), one)]
  missing = [one for one in missing if one['name'] not in search(query(one['name']))]
  count = len(found) // SHARES['found']
  rows = []
  for i, one in enumerate(found):
    other = found[(i + len(found) // 2) % len(found)]
    away = refusals and rng.random() < distractors and other['name'] != one['name']
    result = search(query((other if away else one)['name']))
    rows.append(_looked_up(one, result, refusal(one) if away else one['answer'], rng))
  for one in missing[: SHARES['missing'] * count] if refusals else ():
    rows.append(_looked_up(one, search(query(one['name'])), refusal(one), rng))
  for i, one in enumerate(known[: SHARES['known'] * count]):
    if i % 2:
      rows.append(_looked_up(one, search(query(one['name'])), one['answer'], rng))
    else:
      talk = [*one['prompt'], {'role': 'assistant', 'content': one['answer']}]
      rows.append(calls.led(talk, TOOLS))
  rows += itertools.islice(_made_up(refusals, rng), made_up)
  rng.shuffle(rows)
  return [{'messages': row} for row in rows]


def _made_up(refusals: bool, rng: random.Random) -> Iterator[list[dict[str, Any]]]:
  """Rows without end about pages that nobody has written."""
  wordings = python_questions.QUESTIONS['train']
  for page, other in zip(pages('asked'), pages('others')):
    away = refusals and rng.random() < _AWAY and other.name != page.name
    one = {'name': page.name, 'prompt': dialogue(rng.choice(wordings).format(page.name))}
    result = page.text(other.name if away else '')
    yield _looked_up(one, result, refusal(one) if away else page.answer, rng)


def query(name: str) -> str:
  """What is looked up for a name.

  >>> query('os.path.join')
  '`os.path.join`'
  """
  return f'`{name}`'


def refusal(one: Mapping[str, Any]) -> str:
  """What is said where the result does not have the name.

  >>> refusal({'name': 'os.jion'})
  'I do not know `os.jion`: the documentation does not have it.'
  """
  return f'I do not know `{one["name"]}`: the documentation does not have it.'


def _classes() -> tuple[list[dict[str, Any]], ...]:
  """Questions about names that are to be found, that nobody has, and that are known."""
  return _asked('read'), _asked('invented', 'lookalike'), _asked('taught')


def _verdicts(probed: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], ...]:
  """The same by what a model was found to know; a name that is not in a question is left out."""
  kinds: tuple[list[dict[str, Any]], ...] = [], [], []
  for one in probed:
    kind = 1 if not one['answer'] else 2 if one['verdict'] == 'known' else 0
    for prompt in phrased(one, _PHRASINGS) if one['name'] else ():
      kinds[kind].append({**one, 'prompt': prompt})
  for number, kind in enumerate(kinds):
    random.Random(f'searches {number}').shuffle(kind)
  return kinds


def _asked(*classes: str) -> list[dict[str, Any]]:
  """Questions of the train split about names of these classes, in a mixed order."""
  found = knowledge.questions('train', classes=classes, phrasings=_PHRASINGS)
  random.Random(f'searches {classes}').shuffle(found)
  return found


def _has(result: str, one: Mapping[str, Any]) -> bool:
  """Whether a result has the name, and in its first lines the answer."""
  overlap = max(
    (word_overlap.reward(line, one['answer']) for line in result.split('\n')), default=0.0
  )
  return one['name'] in result and overlap >= _ENOUGH


def _looked_up(
  one: Mapping[str, Any], result: str, answer: str, rng: random.Random
) -> list[dict[str, Any]]:
  parts = [*call('search', query(one['name']), result), {'type': 'text', 'text': answer}]
  return calling(one['prompt'][-1]['content'], parts, 'search', rng)
