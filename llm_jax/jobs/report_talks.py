"""What models said, as conversations; right and wrong are marked where a program knows it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.jobs import graded
from llm_jax.jobs.page import Block, Fold, Heading, Talk, Text, Turn
from llm_jax.text.chat import ROLES
from llm_jax.training import rollouts

LONGEST = 600  # characters of an answer that are shown
FEW = 2  # of the first and of the last rollouts that were written

Facts = Mapping[str, Any]


def prompts(stages: Mapping[str, Facts]) -> list[Block]:
  """The prompts, each with what every stage says to it, marked where a program knows."""
  said = {name: stage['answers'] for name, stage in stages.items() if stage.get('answers')}
  asked = dict.fromkeys(prompt for answers in said.values() for prompt in answers)
  if not asked:
    return []
  out: list[Block] = [
    Heading('The same questions after every stage'),
    Text(
      'Read these answers as you would read those of a pupil; where a program can tell, ✓ is right '
      'and ✗ is wrong. A model of this kind knows what it was trained on and no more, and it may '
      'not know where that ends.'
    ),
  ]
  for prompt in asked:
    known = {name: one for name, stage in stages.items() for one in stage.get('graded', ())
             if graded.question(one) == prompt}  # fmt: skip
    turns = [Turn('question', prompt, 'asked'), *map(_expected, [*known.values()][:1])]
    for name, answers in said.items():
      if name in known:
        turns.append(_turn(name, known[name]))
      elif prompt in answers:
        turns.append(Turn(f'{name}{stages[name].get("how", "")}', short(answers[prompt])))
    out.append(Talk(_joined(turns)))
  return out


def marked(stages: Mapping[str, Facts]) -> list[Block]:
  """A few questions of each family whose right answer is known, with what every stage says."""
  golds: dict[tuple[str, str], dict[str, Facts]] = {}
  for name, stage in stages.items():
    for one in stage.get('graded', ()):
      if graded.question(one) not in stage['answers']:  # which are shown already
        golds.setdefault((one['family'], graded.question(one)), {})[name] = one
  if not golds:
    return []
  out: list[Block] = [
    Heading('Right and wrong'),
    Text(
      'Questions that were held out, with the expected answer. A program compares: ✓ is right, ✗ '
      'is wrong. The first few of each kind, not the best.'
    ),
  ]
  family = ''
  for (of, asked), answers in golds.items():
    if of != family:
      out.append(Heading(of.partition('/')[2].replace('_', ' '), 3))
      family = of
    turns = [Turn('question', asked, 'asked'), _expected(next(iter(answers.values())))]
    turns += [_turn(name, one) for name, one in answers.items()]
    out.append(Talk(_joined(turns)))
  return out


def mistake(found: Facts | None) -> list[Block]:
  """The wrong answer that the reward model likes best, beside a right one that it likes less."""
  if not found:
    return []
  wrong, right = found['wrong'], found['right']
  same = wrong['prompt'] == right['prompt']
  turns = [Turn('question', graded.question(wrong), 'asked'),
           _expected(wrong),
           _turn(wrong['stage'], wrong)]  # fmt: skip
  others = [] if same else [Turn('another question', graded.question(right), 'asked'),
                            _expected(right)]  # fmt: skip
  return [
    Heading("The reward model's favourite mistake"),
    Text(
      'Of all wrong answers to the questions of this report, this one has the highest reward. '
      f'Below it stands a right answer{"" if same else " to a question of the same kind"} that '
      'gets less. A reward model has learnt how good answers look, which is not the same as being '
      'right.'
    ),
    Talk([*turns, *others, _turn(right['stage'], right)]),
  ]


def pairs(before: Sequence[Facts], after: Sequence[Facts]) -> list[tuple[str, Facts, Facts]]:
  """(what happened, answer before, answer after) for a few questions, by how the reward moved.

  Where no reward model has judged them, what counts is which are right.

  Args:
    before: answers of the model before, as `graded` gives them.
    after: those of the model after.
  """
  rewards = any(one.get('reward') is not None for one in after)
  worth = lambda one: one.get('reward') if rewards else float(one['right'])
  known = {(one['family'], graded.question(one)): one for one in before if worth(one) is not None}
  both = [
    (known[at], one)
    for one in after
    if (at := (one['family'], graded.question(one))) in known and worth(one) is not None
  ]
  both = sorted(both, key=lambda pair: worth(pair[1]) - worth(pair[0]))
  if not both:
    return []
  chosen = [both[-1], both[len(both) // 2], both[0]]
  if rewards:
    titles = ('The reward rose most', 'As it mostly went', 'The reward fell most')
  else:
    titles = ('Wrong before, right after', 'As it mostly went', 'Right before, wrong after')
  moved = [worth(b) - worth(a) for a, b in chosen]
  fits = (moved[0] > 0, True, moved[2] < 0)
  return [(t, a, b) for t, (a, b), fit in zip(titles, chosen, fits, strict=True) if fit]


def before_and_after(stages: Mapping[str, Facts]) -> list[Block]:
  """Of every stage that tries answers: some before it and after it, to the same questions."""
  out: list[Block] = []
  for name, stage in stages.items():
    if not stage.get('pairs'):
      continue
    out += [
      Heading(f'Before and after {name}'),
      Text(
        f'The same held-out questions, before {name} and after it, with the number that the '
        'reward model gives to each answer.'
        if any('reward' in one for _, *both in stage['pairs'] for one in both)
        else f'The same held-out questions, before {name} and after it.'
      ),
    ]
    for title, was, now in stage['pairs']:
      turns = [Turn('question', graded.question(was), 'asked'),
               _expected(was),
               _turn(stage['before'], was), _turn(name, now)]  # fmt: skip
      out += [Heading(title, 3), Talk(turns)]
  return out


def written(folder: str | Path) -> list[Block]:
  """The first and the last rollouts of a run, as conversations."""
  found = rollouts.read(folder)
  few = found[:FEW] + found[FEW:][-FEW:]
  talks: list[Block] = []
  for one in few:
    reward = one.get('reward')
    told = '' if reward is None else f', reward {reward:.2f}'
    turns = [Turn(role, short(text), 'asked') for role, text in spoken(one['prompt'])]
    if one.get('gold'):
      turns.append(Turn('expected answer', one['gold'], 'asked'))
    answer = ' '.join(text for _, text in spoken(one['answer'])) or one['answer']
    talks.append(Talk([*turns, Turn(f'update {one["step"]}{told}', short(answer))]))
  return talks


def continued(prompt: str, text: str) -> Talk:
  """What a model that knows no conversations makes of the beginning of a text."""
  return Talk([Turn('a text begins', prompt, 'asked'), Turn('it goes on', short(text))])


def folded(name: str, folder: str | Path) -> list[Block]:
  """`written`, for a reader who asks for them."""
  if not (Path(folder) / 'rollouts.jsonl').is_file() or not (talks := written(folder)):
    return []
  return [Fold(f'Rollouts of {name}: what it tried first, and last', talks)]


def spoken(text: str) -> list[tuple[str, str]]:
  """(role, text) of each turn of a text in which control tokens are spelled out.

  >>> spoken('<|begin|><|im_start|>user<|im_sep|>Hi!<|im_end|><|im_start|>assistant<|im_sep|>')
  [('user', 'Hi!')]
  """
  role, out = 'prompt', []
  for piece in re.split(r'<\|[^<>|]*\|>|</?s>|<(?:start|end)_of_turn>|<bos>|<eos>', text):
    first, _, rest = piece.partition('\n')
    if first.strip() in (*ROLES, 'model'):
      role, piece = first.strip(), rest
    if piece.strip():
      out.append((role, piece.strip()))
  return out


def short(text: str) -> str:
  """A text that fits on the page."""
  text = text.strip() or '–'
  return text if len(text) <= LONGEST else f'{text[:LONGEST]} …'


def _joined(turns: Sequence[Turn]) -> list[Turn]:
  """Turns in which those who say the same, one after the other, say it together."""
  out: list[Turn] = []
  for turn in turns:
    last = out[-1] if out else None
    if last and turn.mark != 'asked' and last[1:] == turn[1:]:
      out[-1] = last._replace(who=f'{last.who.partition(":")[0]}, {turn.who}')
    else:
      out.append(turn)
  return out


def _expected(one: Facts) -> Turn:
  several = ', one of these' if '|' in one['gold'] else ''
  return Turn(f'expected answer{several}', one['gold'].replace('|', ' | '), 'asked')


def _turn(name: str, one: Facts) -> Turn:
  reward = one.get('reward')
  told = '' if reward is None else f', reward {reward:.2f}'
  mark = 'right' if one['right'] else 'wrong'
  return Turn(f'{name}: {mark}{told}', short(one['answer']), mark)
