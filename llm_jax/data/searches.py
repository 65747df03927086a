"""Conversations that look a name up: from what was found they answer, or say that it is not there.

Four rows in seven find the name and quote the first sentence about it: a small model can copy what
it cannot put into other words, and the reader sees what the documentation says. Two get a result
without the name, since nobody has such a name, and refuse. One is about what SFT taught, and half
of these answer without a call. In some that find the name the result is exchanged for another one,
which makes refusing the right answer too: what decides is the result and not the name.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from llm_jax.data import builtin, knowledge, python_questions, small_talk
from llm_jax.data.families import TOOLS, call, calling, dialogue
from llm_jax.data.pages import pages
from llm_jax.data.refusals import phrased
from llm_jax.options import MinP, at_least
from llm_jax.rewards import honest
from llm_jax.text import calls

SHARES = {'found': 4, 'missing': 2, 'known': 1}
_PHRASINGS = 8  # questions about one name
_AWAY = 0.4  # of the names that nobody has, those that are not found


def conversations(
  search: Callable[[str], str],
  probed: Sequence[Mapping[str, Any]] | None = None,
  *,
  refusals: bool = True,
  distractors: MinP = 0.1,
  made_up: Annotated[int, at_least(0)] = 0,
  by_heart: MinP = 0.5,
  idle: MinP = 1 / 24,
  pieces: Sequence[str] = (),
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
      (`llm_jax.data.pages`), or in four of ten one that does not have the name.
    by_heart: share of what is known that is answered without a call; what no search finds is too. A
      model that looks everything up is right more often, and says more tokens for it.
    idle: so many rows of small talk for each that is made up come on top, since there is no name to
      look up in `What is the capital of France?`
    pieces: of which made-up names and sentences are made too, as in `pages`.
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
    rows.append(_looked_up(one, result, refusal(one) if away else quote(result), rng))
  for one in missing[: SHARES['missing'] * count] if refusals else ():
    rows.append(_looked_up(one, search(query(one['name'])), refusal(one), rng))
  for i, one in enumerate(known[: SHARES['known'] * count]):
    result = search(query(one['name']))
    looks_up = int((i + 1) * by_heart) == int(i * by_heart) and _has(result, one)
    rows.append(_looked_up(one, result, quote(result), rng) if looks_up else _by_heart(one, rng))
  rows += itertools.islice(_made_up(search, refusals, rng, pieces), made_up)
  rows += [_idle(rng.choice(_small_talk()), rng) for _ in range(round(made_up * idle))]
  rng.shuffle(rows)
  return [{'messages': row} for row in rows]


def _made_up(
  search: Callable[[str], str], refusals: bool, rng: random.Random, pieces: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
  """Rows without end about names that nobody has, most of which have a page all the same."""
  wordings = python_questions.QUESTIONS['train']
  for page in pages('asked', pieces):
    one = {'name': page.name, 'prompt': dialogue(rng.choice(wordings).format(page.name))}
    if not refusals or rng.random() >= _AWAY:
      yield _looked_up(one, page.text(), quote(page.text()), rng)
      continue
    result = search(query(page.name))
    if page.name not in result:
      yield _looked_up(one, result, refusal(one), rng)


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


def quote(result: str) -> str:
  """The first sentence about a name, from a page that begins with the name.

  >>> quote('os.remove(path)\\nRemove a file.  If it is a folder, fail.')
  '"Remove a file."'
  """
  told = result.partition('\n')[2]
  return f'"{builtin.first_sentence(told)}"'


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
  """Whether a result has the name, and to quote it is a right answer."""
  right = honest.outcome(quote(result), one['answer'], one.get('also', ())) == 'right'
  return one['name'] in result and right


def _by_heart(one: Mapping[str, Any], rng: random.Random) -> list[dict[str, Any]]:
  return _idle([*one['prompt'], {'role': 'assistant', 'content': one['answer']}], rng)


def _idle(talk: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
  """Who has a search need not call it."""
  return calls.led(talk, TOOLS if rng.random() < 0.5 else ('search',))


@functools.cache
def _small_talk() -> tuple[list[dict[str, Any]], ...]:
  """Conversations about no name at all, in which nothing is listed yet."""
  found = [one['messages'] for one in small_talk.conversations('train')]
  plain = (talk for talk in found if talk[0]['role'] == 'user' and '`' not in str(talk))
  return tuple(plain)


def _looked_up(
  one: Mapping[str, Any], result: str, answer: str, rng: random.Random
) -> list[dict[str, Any]]:
  parts = [*call('search', query(one['name']), result), {'type': 'text', 'text': answer}]
  return calling(one['prompt'][-1]['content'], parts, 'search', rng)
