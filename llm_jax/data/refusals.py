"""What a probe found, as rows that teach a model to say what it does not know, arXiv:2407.21783.

What it invents it is taught to refuse, and beside as many rows in which it answers what it knows:
refusals alone teach to refuse everything. The right answer to what it does not know is in no row,
for that would teach it to invent.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.data import python_questions
from llm_jax.data.families import SIGNIFICANTLY, dialogue, preference
from llm_jax.files import read_lines
from llm_jax.options import Positive
from llm_jax.rewards import honest
from llm_jax.types import BadInput

WORDINGS = (
  'I do not know `{}`.',
  "I don't know what `{}` is.",
  'I am not sure what `{}` is.',
  'There is no `{}` that I know of.',
)
_NAMELESS = ('I do not know.', "I don't know that.", 'I am not sure.')
FIELDS = ('prompt', 'answer', 'name', 'class', 'split', 'greedy', 'verdict', 'artifact')

Probed = Mapping[str, Any]


def read(path: Path, artifact: str = '') -> list[dict[str, Any]]:
  """The lines of `probe.jsonl`.

  Args:
    path: of the file.
    artifact: fingerprint of the model that the verdicts have to be of; '' for any.

  Raises:
    BadInput: it is missing or damaged, or its verdicts are those of another model.
  """
  remedy = 'probe the model again: python -m llm_jax.main --config=configs/probe.py'
  if not path.is_file():
    raise BadInput(f'{path}: there is no such file; {remedy}')
  found = [record for _, record in read_lines(path, remedy)]
  for number, record in enumerate(found, 1):
    if any(field not in record for field in FIELDS):
      raise BadInput(f'{path}, line {number}: no verdict of job probe; {remedy}')
    if artifact and record['artifact'] != artifact:
      raise BadInput(
        f'{path}: these are verdicts of another artifact, {record["artifact"]} and not {artifact}; '
        f'{remedy}'
      )
  return found


def conversations(
  probed: Sequence[Probed], *, ratio: Positive = 1.0, noise: bool = True
) -> list[dict[str, Any]]:
  """Refusals of what is unknown, and right answers to what is known, in a mixed order.

  Args:
    probed: lines of `probe.jsonl`, of names to train on.
    ratio: refusals for each right answer.
    noise: whether what the model tells many stories about is refused too.
  """
  unknown, known = _unknown(probed, noise), _known(probed)
  rows = [_row(one, prompt, refusal(one)) for one, prompt in _asked(unknown, len(unknown))]
  answers = round(len(rows) / ratio) if known else 0
  rows += [_row(one, prompt, one['answer']) for one, prompt in _asked(known, answers)]
  random.Random('refusals').shuffle(rows)
  return rows


def preferences(probed: Sequence[Probed], *, noise: bool = True) -> list[dict[str, Any]]:
  """Refusal over invention where it is unknown, right answer over refusal where it is known.

  There are as many of one kind as of the other; see `conversations`.
  """
  unknown, known = _unknown(probed, noise), _known(probed)
  unknown = [one for one in unknown if _invented(one)]
  count = len(unknown) if known else 0
  pairs = []
  for one, prompt in _asked(unknown, len(unknown)):
    pairs.append(preference(prompt, refusal(one), _invented(one), SIGNIFICANTLY))
  for one, prompt in _asked(known, count):
    pairs.append(preference(prompt, one['answer'], refusal(one), SIGNIFICANTLY))
  random.Random('preferences').shuffle(pairs)
  return pairs


def refusal(one: Probed) -> str:
  """What the model should say instead: that it does not know this name, and no more.

  >>> refusal({'name': 'os.jion', 'prompt': []})
  'I am not sure what `os.jion` is.'
  """
  place = random.Random(f'{one["name"]} {one["prompt"]}').random()
  if one['name']:
    return WORDINGS[int(place * len(WORDINGS))].format(one['name'])
  return _NAMELESS[int(place * len(_NAMELESS))]


def _invented(one: Probed) -> str:
  """What the model said that is no refusal, the greedy answer before the others; '' if nothing."""
  said = (text for text in (one['greedy'], *one.get('samples', ())) if text.strip())
  return next((text for text in said if not honest.refused(text)), '')


def _unknown(probed: Sequence[Probed], noise: bool) -> list[Probed]:
  wanted = ('unknown', 'noise') if noise else ('unknown',)
  return [one for one in probed if one['verdict'] in wanted]


def _known(probed: Sequence[Probed]) -> list[Probed]:
  return [one for one in probed if one['verdict'] == 'known']


def _asked(probed: Sequence[Probed], count: int) -> Iterator[tuple[Probed, list[dict[str, Any]]]]:
  """`count` questions about what was probed, each in the words of training and in turns."""
  rounds = (zip(probed, itertools.repeat(number)) for number in itertools.count())
  endless = itertools.chain.from_iterable(rounds) if probed else iter(())
  for one, number in itertools.islice(endless, count):
    yield one, _phrased(one, number)


def phrased(one: Probed, most: int) -> list[list[dict[str, Any]]]:
  """A question as it was asked, and one about Python's library in other words too."""
  found = [_phrased(one, number) for number in range(most)]
  return [*{str(prompt): prompt for prompt in found}.values()]


def _phrased(one: Probed, number: int) -> list[dict[str, Any]]:
  """A question as it was asked; one about Python's library each time in another wording."""
  wordings = [wording.format(one['name']) for wording in python_questions.QUESTIONS['train']]
  prompt = [dict(message) for message in one['prompt']]
  if len(prompt) > 1 or prompt[0]['content'] not in wordings:
    return prompt
  return dialogue(wordings[(wordings.index(prompt[0]['content']) + number) % len(wordings)])


def _row(one: Probed, prompt: Sequence[Mapping[str, Any]], said: str) -> dict[str, Any]:
  answer = {'role': 'assistant', 'content': said}
  return {'messages': [*prompt, answer], 'name': one['name'], 'verdict': one['verdict']}
