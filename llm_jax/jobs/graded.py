"""Answers to questions whose right answer is known, and what a reward model makes of them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llm_jax.jobs.measure import Measured

FEW = 3  # questions of a family that are shown


def graded(found: Measured) -> list[dict[str, Any]]:
  """Every answer to a question with a gold answer: whether it is right.

  It is where the first score of its family that only ever says 0 or 1 says 1; a family without
  such a score is left out.
  """
  out = []
  for key, said in found.said.items():
    both = [(question, text) for question, text in said if {'family', 'answer'} <= question.keys()]
    for family in dict.fromkeys(question['family'] for question, _ in both):
      own = [(question, text) for question, text in both if question['family'] == family]
      right = _right(found, f'{key}/{family}/', len(own))
      for (question, text), is_right in zip(own, right or (), strict=bool(right)):
        out.append(
          {
            'family': f'{key}/{family}',
            'prompt': question['prompt'],
            'gold': str(question['answer']),
            'answer': text,
            'right': is_right,
          }
        )
  return out


def _right(found: Measured, start: str, count: int) -> list[bool] | None:
  """Whether each answer of a family is right, by the scores whose names begin with `start`."""
  for name, metric in found.per_question.items():
    scores = [] if metric.scores is None else metric.scores.tolist()
    if name.startswith(start) and len(scores) == count and {*scores} <= {0.0, 1.0}:
      return [score == 1.0 for score in scores]
  return None


def rewarded(answers: list[dict[str, Any]], judge: Any) -> None:
  """Adds the `reward` of each answer: that of a reward model, or None.

  Args:
    answers: as `graded` gives them.
    judge: a `LoadedModel` with a scalar head.
  """
  scores = judge.scores([(one['prompt'], one['answer']) for one in answers], batch_size=32)
  for one, score in zip(answers, scores, strict=True):
    one['reward'] = score


def favourite(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
  """The wrong answer with the highest reward, and a right one with a lower reward.

  The right one answers the same question if there is one, or else one of its family; of several it
  is the one with the lowest reward. None where no right answer has a lower reward.

  Args:
    answers: stage -> its answers, with rewards.

  >>> one = lambda right, reward: dict(
  ...   family='sums', prompt=[], answer='', right=right, reward=reward)
  >>> found = favourite({'sft': [one(False, 2.0), one(True, 1.0), one(False, 3.0)]})
  >>> found['wrong']['reward'], found['right']['reward']
  (3.0, 1.0)
  """
  every = [{'stage': stage, **one} for stage, some in answers.items() for one in some]
  every = [one for one in every if one.get('reward') is not None]
  wrong = max((one for one in every if not one['right']), key=lambda one: one['reward'], default={})
  lower = [
    one
    for one in every
    if wrong
    and one['right']
    and one['family'] == wrong['family']
    and one['reward'] < wrong['reward']
  ]
  if not lower:
    return None
  same = [one for one in lower if one['prompt'] == wrong['prompt']]
  return {'wrong': wrong, 'right': min(same or lower, key=lambda one: one['reward'])}


def few(
  answers: Sequence[Mapping[str, Any]], prompts: Collection[str] = ()
) -> list[Mapping[str, Any]]:
  """The first few of each family, and those to some prompts."""
  counts: Counter[str] = Counter()
  out = []
  for one in answers:
    counts[one['family']] += 1
    if counts[one['family']] <= FEW or question(one) in prompts:
      out.append(one)
  return out


def question(one: Mapping[str, Any]) -> str:
  """The last message of a prompt."""
  content = one['prompt'][-1]['content'] if one['prompt'] else ''
  return content if isinstance(content, str) else ''
