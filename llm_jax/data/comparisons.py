"""Reads what people compared, as a prompt, answers from best to worst, and a margin or None.

One function for each layout; the tables of `llm_jax.data.formats` say which columns have which.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any

from llm_jax.data.messages import (
  BadRow,
  Messages,
  Record,
  answer,
  asked,
  dialogue,
  get,
  is_null,
  led,
  messages,
  parsed,
  said,
  text_of,
  transcript,
)
from llm_jax.types import BadInput

Preference = tuple[Messages, list[Messages], float | None]

PROMPT = 'prompt|instruction|question|query'
CHOSEN, REJECTED = 'chosen|chosen_response', 'rejected|rejected_response'
SCORES = (
  ('score_chosen', 'score_rejected'),
  ('chosen_score', 'rejected_score'),
  ('chosen_rating', 'rejected_rating'),
  ('rating_chosen', 'rating_rejected'),
  ('chosen-rating', 'rejected-rating'),
)


def prompt_of(record: Record, column: str = PROMPT) -> Messages:
  """The prompt of a record: its text, after the history and system prompt of other columns."""
  value = get(record, column)
  if isinstance(value, str):
    more = get(record, 'context' if column == 'input' else 'input|context')
    if more is not None and not isinstance(more, (str, int, float)):
      raise BadInput(f'input or context is {str(more)[:60]!r}; write a text')
    found = asked(value)
    if more not in (None, ''):
      found = said(f'{value}\n\n{more}', 'user')
  else:
    found = messages(value)
  history = parsed(get(record, 'history') or [])
  if isinstance(history, str):
    raise BadInput(f'history is {history[:60]!r}; write pairs of texts, or messages')
  return led(record, messages(history) + found)


def pair(record: Record, column: str = PROMPT) -> Preference:
  """chosen and rejected, after a prompt; both may repeat it, and the system prompt too."""
  chosen, rejected = answer(get(record, CHOSEN)), answer(get(record, REJECTED))
  prompt = prompt_of(record, column)
  if record.get('status') == 'tie':  # of distilabel
    raise BadRow('tie')
  if any(map(_is_whole, (chosen, rejected))):
    shared, answers = _divided(chosen, rejected)
    prompt = _united(prompt, shared)
  else:
    answers = [chosen, rejected]
  return prompt, answers, _margin(record)


def input_pair(record: Record) -> Preference:
  """chosen and rejected, after a prompt in column `input`."""
  return pair(record, 'input')


def continued_pair(record: Record) -> Preference:
  """chosen and rejected, after the messages of a conversation."""
  found = led(record, dialogue(record['conversations']))
  return found, [answer(get(record, CHOSEN)), answer(get(record, REJECTED))], _margin(record)


def whole_pair(record: Record) -> Preference:
  """chosen and rejected are conversations; the prompt is how both begin."""
  both = [get(record, CHOSEN), get(record, REJECTED)]
  texts = [isinstance(v, str) and not isinstance(parsed(v), list) for v in both]
  null = [name for name in f'{PROMPT}|input'.split('|') if name in record]
  if null and all(texts) and not both[0].startswith('\n\nHuman:'):
    raise BadRow(f'{null[0]} is null')
  read = [transcript(v) if is_text else messages(v) for v, is_text in zip(both, texts, strict=True)]
  shared, answers = _divided(*read)
  return led(record, shared), answers, _margin(record)


def last_rejected(record: Record) -> Preference:
  """A conversation whose last answer is the chosen one, beside the rejected one (ms-swift)."""
  found = led(record, dialogue(record['messages']))
  if not found or found[-1]['role'] != 'assistant':
    raise BadRow('no answer')
  return found[:-1], [found[-1:], answer(record['rejected_response'])], _margin(record)


def preferred_output(record: Record) -> Preference:
  """The preferences of OpenAI and Together."""
  asks = parsed(record['input'])
  answers = [messages(record[name]) for name in ('preferred_output', 'non_preferred_output')]
  return led(asks, messages(asks['messages'])), answers, None


def _is_whole(found: Messages) -> bool:
  return any(message['role'] in ('user', 'system') for message in found)


def _divided(*both: Messages) -> tuple[Messages, list[Messages]]:
  """How two conversations begin, and the answers; a system prompt of one leads both."""
  if not all(both):
    raise BadRow('no answer')
  systems = [found[0] for found in both if found[0]['role'] == 'system']
  if len({text_of(system) for system in systems}) > 1:
    raise BadRow('prompts differ')
  first, second = (found[1:] if found[0]['role'] == 'system' else found for found in both)
  pairs = zip(first[:-1], second[:-1], strict=False)
  shared = sum(1 for _ in itertools.takewhile(lambda two: _same(*two), pairs))
  return systems[:1] + first[:shared], [first[shared:], second[shared:]]


def _united(prompt: Messages, shared: Messages) -> Messages:
  """What a prompt and the beginning of both conversations say together."""
  system, asks = _parted(prompt)
  own, turns = _parted(shared)
  # A prompt as text is one turn of the conversation, the first or the last in most sets.
  if len(turns) >= len(asks) and (
    any(_same(asks[0], turn) for turn in turns) if len(asks) == 1 else _ends(turns, asks)
  ):
    asks = turns
  elif not _ends(asks, turns):
    raise BadRow('prompts differ')
  texts = dict.fromkeys(text for text in (text_of(m) for m in (*system, *own)) if text)
  return [{'role': 'system', 'content': text} for text in ['\n\n'.join(texts)] if text] + asks


def _parted(found: Messages) -> tuple[Messages, Messages]:
  has_system = bool(found) and found[0]['role'] == 'system'
  return found[:has_system], found[has_system:]


def _ends(turns: Messages, tail: Messages) -> bool:
  end = turns[len(turns) - len(tail) :]
  return len(end) == len(tail) and all(map(_same, end, tail))


def _same(a: Record, b: Record) -> bool:
  own = lambda m: (m['role'], text_of(m).strip(), m.get('tool_calls'))
  return own(a) == own(b)


def _margin(record: Record) -> float | None:
  """By how much the first is better: `margin`, or the difference of two scores."""
  if record.get('margin') is not None:
    margin = _number(record['margin'], 'margin')
    if not math.isfinite(margin):
      raise BadRow('margin is not finite')
    return float(margin)
  for names in SCORES:
    if not any(is_null(record.get(name)) for name in names):
      better, worse = (_number(record[name], name) for name in names)
      if not math.isfinite(better - worse):
        raise BadRow('score is not finite')
      if better < worse:
        raise BadRow('the rejected answer has the higher score')
      return float(better - worse)
  return None


# --- rankings ----------------------------------------------------------------------------------


def ranking(record: Record) -> Preference:
  """A list of answers and one of ranks, 1 the best, or of scores."""
  answers: Any = parsed(get(record, 'answers|responses|completions|generations'))
  ranks = parsed(get(record, 'ranks|ranking'))
  scores = parsed(get(record, 'scores|ratings'))
  order = (
    [_number(r, 'rank') for r in ranks]
    if ranks is not None
    else [-_number(score) for score in scores]
  )
  if len(order) != len(answers):
    raise BadRow('not one rank for each answer')
  if not all(map(math.isfinite, order)):
    raise BadRow('score is not finite')
  if len(set(order)) < len(order):
    raise BadRow('tie')
  sorted_answers = [_said(answers[i]) for i in sorted(range(len(order)), key=order.__getitem__)]
  return prompt_of(record), sorted_answers, _margin(record)


def nectar(record: Record) -> Preference:
  """Answers with a rank each."""
  items = parsed(record['answers'])
  answers, ranks = ([item[name] for item in items] for name in ('answer', 'rank'))
  return ranking({**record, 'answers': answers, 'ranks': ranks})


def rated(record: Record) -> Preference:
  """UltraFeedback (arXiv:2310.01377) with its ratings: the mean of an answer's aspects decides.

  Of answers that are rated alike, the first one stays. `overall_score` is not used where aspects
  are rated, since it has known errors (huggingface.co/datasets/openbmb/UltraFeedback).
  """
  first: dict[float, str] = {}
  for item in parsed(record['completions']):
    aspects = (item.get('annotations') or {}).values()
    ratings = [str((aspect or {}).get('Rating')) for aspect in aspects]
    numbers = [float(rating) for rating in ratings if re.fullmatch(r'\d+(\.\d+)?', rating)]
    overall = get(item, 'fine-grained_score|overall_score')
    score = sum(numbers) / len(numbers) if numbers else _number(overall)
    if math.isfinite(score):
      first.setdefault(score, item['response'])
  if len(first) < 2:
    raise BadRow('tie' if first else 'score is not finite')
  best = sorted(first, reverse=True)
  return prompt_of(record), [answer(first[score]) for score in best], best[0] - best[1]


def sorted_outputs(record: Record) -> Preference:
  """A list of answers, best first."""
  output = record['output'] if isinstance(record['output'], list) else parsed(record['output'])
  if not isinstance(output, list):
    raise BadInput('output is one answer; a preference has a list of them, best first')
  return prompt_of(record), [_said(one) for one in output], None


def _number(value: Any, what: str = 'score') -> float:
  """A number, also as text, as in the cells of a CSV file."""
  if value is None:
    raise BadRow(f'null {what}')
  try:
    number = float(value) if isinstance(value, str) else value
  except ValueError:
    number = None
  if isinstance(number, bool) or not isinstance(number, (int, float)):
    raise BadInput(f'{what} {value!r} is not a number')
  return number


def _said(value: Any) -> Messages:
  if value is None:
    raise BadRow('null answer')
  return answer(value)


# --- the better of two, the best of a few --------------------------------------------------------


def summaries(record: Record) -> Preference:
  """A post of Reddit or an article, two summaries and the number of the better one."""
  info = record['info']
  if text := info.get('post'):
    parts = [f'SUBREDDIT: r/{info.get("subreddit")}', f'TITLE: {info.get("title")}']
    prompt = '\n\n'.join([*parts, f'POST: {text}', 'TL;DR:'])
  else:
    prompt = f'Article:\n{info["article"]}\n\nTL;DR:'
  texts = [summary['text'] for summary in record['summaries']]
  return _best(said(prompt, 'user'), texts, _number(record['choice']))


def best_of(record: Record) -> Preference:
  """Samples of which one is the best (arXiv:1909.08593)."""
  names = sorted(name for name in record if re.fullmatch(r'sample\d+', name))
  return _best(
    said(record['query'], 'user'), [record[name] for name in names], _number(record['best'])
  )


def llmbar(record: Record) -> Preference:
  """LLMBar: `label` is the number of the better one, 1 or 2."""
  both = [record['output_1'], record['output_2']]
  return _best(said(record['input'], 'user'), both, _number(record['label']) - 1)


def pku(record: Record) -> Preference:
  """PKU-SafeRLHF (arXiv:2406.15513): which answer is more helpful, not which one is safer."""
  both = [record['response_0'], record['response_1']]
  return _best(prompt_of(record), both, _number(record['better_response_id']))


def shp(record: Record) -> Preference:
  """SHP (arXiv:2110.08420): a post and two comments; `labels` is 1 if A has more votes."""
  both = [record['human_ref_A'], record['human_ref_B']]
  return _best(said(record['history'], 'user'), both, 1 - _number(record['labels']))


def helpsteer2(record: Record) -> Preference:
  """HelpSteer2 (arXiv:2410.01257): strength from -3 to 3, below 0 for the first answer."""
  both = [record['response_1'], record['response_2']]
  return _strong(prompt_of(record), both, record['preference_strength'])


def helpsteer3(record: Record) -> Preference:
  """HelpSteer3 (arXiv:2505.11475): preference from -3 to 3, below 0 for the first answer."""
  both = [record['response1'], record['response2']]
  return _strong(led(record, dialogue(record['context'])), both, record['overall_preference'])


def arena(record: Record) -> Preference:
  """Two conversations of an arena, and the name of the winner, or 'tie'."""
  both = [messages(record[name]) for name in ('conversation_a', 'conversation_b')]
  better = {'model_a': 0, 'model_b': 1}.get(str(record['winner']))
  if better is None:
    raise BadRow('tie')
  shared, answers = _divided(*both)
  return shared, answers[::-1] if better else answers, None


def _strong(prompt: Messages, both: Sequence[Any], strength: Any) -> Preference:
  number = _number(strength, 'preference')
  if not number:
    raise BadRow('tie')
  _, ranked, _ = _best(prompt, both, int(number > 0))
  return prompt, ranked, float(abs(number))


def _best(prompt: Messages, answers: Sequence[Any], best: float) -> Preference:
  """The best answer first, and the others in the order of the record, which says nothing else."""
  first = [one for i, one in enumerate(answers) if i == best]
  others = [one for i, one in enumerate(answers) if i != best]
  if not first:
    raise BadRow('no answer is the best')
  return prompt, [_said(one) for one in first + others], None
