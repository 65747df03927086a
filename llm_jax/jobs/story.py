"""What each stage of a pipeline did, in three plain sentences: did, changed, look at.

All figures are those of the run; jobs/glossary.py says what the words mean.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Facts = Mapping[str, Any]

MOST = 3  # metrics that a sentence names


class Seen(NamedTuple):
  """A metric of two models.

  Attributes:
    heading: what it is called.
    before: None where it was not measured.
    after: the later one.
    n: questions; 0 where none are counted.
    moved: whether they differ: where questions are compared one by one, beyond what chance
      explains, and elsewhere by more than a hundredth.
    worse: whether the later one is, where that is known.
  """

  heading: str
  before: float
  after: float
  n: int
  moved: bool
  worse: bool


def seen(before: Facts, after: Facts, headings: Mapping[str, str]) -> list[Seen]:
  """The metrics that both of two stages have, in the order of their headings."""
  out = []
  for name, heading in headings.items():
    was, now = (stage.get('metrics', {}).get(name) for stage in (before, after))
    if was is None or now is None:
      continue
    compared = after.get('moved', {}).get(name, {})
    apart = compared.get('sure', abs(now - was) > 0.01 * max(abs(was), abs(now)))
    counted = after.get('intervals', {}).get(name) or {}
    out.append(Seen(heading, was, now, counted.get('n', 0), apart, compared.get('worse', False)))
  return out


def told(value: float, n: int) -> str:
  """A share as a count where it is one.

  >>> told(0.5, 200), told(0.123, 200), told(1.737, 0)
  ('100 of 200', '0.123', '1.737')
  """
  count = value * n
  if n and 0 <= value <= 1 and math.isclose(count, round(count), abs_tol=1e-3):
    return f'{round(count):,} of {n:,}'
  return f'{value:.3f}'


def sentences(name: str, stages: Mapping[str, Facts], headings: Mapping[str, str]) -> list[str]:
  """What a stage did, what changed, and what to look at.

  Args:
    name: of the stage.
    stages: what `report.json` has of all.
    headings: metric -> what it is called, for those that are looked at.
  """
  facts = stages[name]
  known = dict.get(KINDS, facts.get('kind', '')) or _other
  return [one for one in known(name, facts, stages, headings) if one]


def why_bits_rise(stages: Mapping[str, Facts]) -> tuple[str, str]:
  """The stage whose model finds held-out text more surprising than its base did, and why."""
  for chat, stage in stages.items():
    base = stage.get('before') or ''
    if stage.get('kind') != 'chat' or stages.get(base, {}).get('kind') != 'base':
      continue
    was, now = stages[base].get('metrics', {}), stage.get('metrics', {})
    metric = next((one for one in now if one.endswith('/bits_per_byte') and one in was), '')
    if metric and now[metric] >= 1.02 * was[metric]:
      return chat, _why(base, was[metric], chat, now[metric])
  return '', ''


def _why(base: str, low: float, chat: str, high: float) -> str:
  return (
    f'Why do bits per byte rise from {low:.3f} to {high:.3f}? They are measured on text like that '
    f'which {base} read. {chat} was trained on conversations, so it comes to expect short '
    'answers, and long documents surprise it. This is the price of teaching a model to answer, and '
    'no fault: from here on its answers say what it is worth. With some of the old text among the '
    'conversations it would be lower.'
  )


# --- a stage of each kind -------------------------------------------------------------------------

Told = Callable[[str, Facts, Mapping[str, Facts], Mapping[str, str]], Sequence[str]]


def _tokenize(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del name, stages, headings
  parts = [part for splits in facts['sources'].values() for part in splits.items()]
  sums = {
    kind: [
      sum(part[kind] for split, part in parts if (split == 'train') is train)
      for train in (True, False)
    ]
    for kind in ('documents', 'bytes', 'tokens')
  }
  weighed = [part['bytes_per_token'] * part['tokens'] for split, part in parts if split == 'train']
  each = sum(weighed) / max(1, sums['tokens'][0])
  kept = (
    f' Another {sums["documents"][1]:,} documents are held out.' if sums['documents'][1] else ''
  )
  return (
    f'A computer knows no words, so text was cut into tokens: {facts["vocab_size"]:,} pieces that '
    'are frequent enough to have a number of their own.',
    f'{sums["bytes"][0] / 1e6:.2f} MB of text in {sums["documents"][0]:,} documents became '
    f'{sums["tokens"][0]:,} tokens of {each:.2f} bytes each.{kept}',
    'Look at "Tokens" below, which shows a conversation cut up.',
  )


def _base(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del name, stages, headings
  bits = [v for k, v in facts.get('metrics', {}).items() if k.endswith('/bits_per_byte')]
  held = (
    f' On held-out text it needs {bits[0]:.3f} bits per byte, where a guess needs 8.'
    if bits
    else ''
  )
  return (
    f'A {"" if facts.get("parent") else "new "}model of {_size(facts)} parameters was shown the '
    f'text and learnt to predict each next token, in {_work(facts)}.',
    f'{_moved(facts, "loss")}{held}',
    'Look at the text that it continues: the tone is right, the content is not, and a question is '
    'to it a text like any other.',
  )


def _chat(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  return (
    f'{_from(facts, stages)} was shown conversations and learnt to predict what the assistant says '
    f'in them, in {_work(facts)}.',
    _changed(name, stages, headings) or _moved(facts, 'loss'),
    'Look at "The same questions after every stage": from here on there are answers, and their '
    'form is learnt sooner than their content.',
  )


def _reward(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del name, headings
  found = facts.get('evaluated', {})
  right = next((v for k, v in found.items() if k.endswith('/accuracy')), None)
  scores = [
    next((v for k, v in found.items() if k.endswith(f'/{which}_score')), None)
    for which in ('chosen', 'rejected')
  ]
  told_right = (
    f'On held-out pairs it finds the preferred one in {right:.1%} of all cases, '
    if right is not None
    else ''
  )
  means = (
    f' The better answers get {scores[0]:.2f} on average, the others {scores[1]:.2f}.'
    if None not in scores
    else ''
  )
  return (
    f'A copy of {_from(facts, stages, start=False)} was given one number as its output, the '
    'reward, and learnt from pairs of answers to give the preferred one the higher number, in '
    f'{_work(facts)}.',
    (f'{told_right}where a coin finds 50%.' if told_right else _moved(facts, 'loss')) + means,
    'Look at "The reward model\'s favourite mistake": what is trained to please it learns its '
    'mistakes as well.',
  )


def _tries(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  held = ', and a penalty kept it near to where it began' if facts.get('held') else ''
  return (
    f'{_from(facts, stages)} wrote answers of its own; those that got a better reward than '
    f'expected became more likely, the others less, in {_work(facts)}{held}.',
    # Each update is on other prompts, so rewards in training say less than those on the same ones.
    _changed(name, stages, headings) or _moved(facts, 'reward'),
    'Look at "Before and after", and at what went down: what no reward asks for may get lost.'
    if any(one.moved and one.worse for one in _both(name, stages, headings))
    else 'Look at "Before and after": is a higher reward also a better answer?',
  )


def _prefers(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  return (
    f'{_from(facts, stages)} was shown pairs of answers and learnt to make the better one more '
    f'likely than the other, in {_work(facts)}.',
    _changed(name, stages, headings) or _moved(facts, 'loss'),
    'Look at whether right answers moved, or only the style that pairs differ in.',
  )


def _answers(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del name, stages, headings
  return (
    f'The chat model answered each of {facts["prompts"]:,} questions {facts["n"]} times, and only '
    'the best answer was kept.',
    f'The mean score of an answer is {_plain(facts["single"])}, that of the best of {facts["n"]} '
    f'is {_plain(facts["best"])}; {facts["written"]:,} were good enough to learn from.',
    'Look at the next stage, which is trained on what was kept here.',
  )


def _compress(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  before, after = (facts['bytes'][when] / 1e6 for when in ('before', 'after'))
  return (
    f'{_from(facts, stages)} was stored with {facts["bits_per_weight"]:.1f} bits a parameter.',
    f'It takes {after:.2f} MB in the place of {before:.2f}. '
    f'{_changed(name, stages, headings)}'.strip(),
    f'Look at whether its answers are still the same; {name}/report.html says what changed by '
    'layer. Every job but training reads it.',
  )


def _clean(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del stages, headings
  pages, kept = (sum(part[key] for part in facts['sources'].values()) for key in ('pages', 'kept'))
  return (
    'Pages of the web were reduced to text, and rules dropped what is of no use for training.',
    f'Of {pages:,} pages {kept:,} are left.',
    f'Look at {name}/report.html, which says which rule dropped what.',
  )


def _probe(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del facts, stages, headings
  return (
    'The chat model was asked about names that it was taught, that it has read, and that nobody '
    'has, several times each, and its answers were compared with what is true.',
    'From that came rows that teach it to refuse what it does not know.',
    f'Look at {name}/report.html, which says where its knowledge ends.',
  )


def _feedback(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  del facts, stages, headings
  return (
    'What users said of answers was collected: thumbs, edits, and which of two drafts they took.',
    'From that came pairs of answers for a reward model, and conversations to learn from.',
    f'Look at {name}/report.html, which says what was collected.',
  )


def _other(name: str, facts: Facts, stages: Any, headings: Any) -> Sequence[str]:
  if 'steps' not in facts:
    return (f'Its files are in the folder of stage {name}.',)
  moved = _changed(name, stages, headings) or _moved(facts, 'loss')
  return (
    f'{_from(facts, stages)} was trained with loss {facts["loss"]}, in {_work(facts)}.',
    moved,
  )


KINDS: dict[str, Told] = {
  'tokenize': _tokenize,
  'clean': _clean,
  'base': _base,
  'chat': _chat,
  'reward': _reward,
  'tries': _tries,
  'prefers': _prefers,
  'answers': _answers,
  'compress': _compress,
  'probe': _probe,
  'feedback': _feedback,
}


# --- parts of sentences ---------------------------------------------------------------------------


def _both(name: str, stages: Mapping[str, Facts], headings: Mapping[str, str]) -> list[Seen]:
  """The metrics of a stage beside those of what it started from."""
  before = stages.get(stages[name].get('before') or '', {})
  return seen(before, stages[name], headings)


def _changed(name: str, stages: Mapping[str, Facts], headings: Mapping[str, str]) -> str:
  """The metrics that moved, as a sentence or two; '' where nothing can be compared."""
  both = _both(name, stages, headings)
  if not both:
    return ''
  moved = sorted((one for one in both if one.moved), key=lambda one: not one.n)  # counts first
  if not moved:
    return 'Nothing that was measured moved by more than chance or by more than a hundredth.'
  out = []
  for verb, some in (
    ('went up', [one for one in moved if one.after > one.before]),
    ('went down', [one for one in moved if one.after < one.before]),
  ):
    parts = [f'{one.heading} from {_first(one)} to {told(one.after, one.n)}' for one in some]
    rest = f', and {len(parts) - MOST} more' if len(parts) > MOST else ''
    out += [f'What {verb}: {", ".join(parts[:MOST])}{rest}.'] if parts else []
  return ' '.join(out)


def _first(one: Seen) -> str:
  """The number before, without the count that the number after says."""
  return told(one.before, one.n).partition(' of ')[0]


def _moved(facts: Facts, what: str) -> str:
  """How a quantity of training went from its first update to its last."""
  first, last = (facts.get(when, {}).get(what) for when in ('began', 'ended'))
  if first is None or last is None:
    return ''
  if f'{first:.2f}' == f'{last:.2f}':
    return f'In training the {what} stayed at {last:.2f}.'
  return f'In training the {what} went from {first:.2f} to {last:.2f}.'


def _from(facts: Facts, stages: Mapping[str, Facts], start: bool = True) -> str:
  """What a stage started from."""
  before = facts.get('before')
  if not before:
    return 'The model' if start else 'the model'
  base = stages.get(before, {}).get('kind') == 'base'
  return f'{"The" if start else "the"} {"base " * base}model of {before}'


def _size(facts: Facts) -> str:
  count = facts.get('parameters') or 0
  return f'{count / 1e6:.2f} million' if count >= 1e5 else f'{count:,}'


def _work(facts: Facts) -> str:
  tokens = f' on {facts["tokens"]:,.0f} tokens' if facts.get('tokens') else ''
  return f'{facts["steps"]:,} update{"s" * (facts["steps"] != 1)}{tokens}'


def _plain(value: float | None) -> str:
  return 'not known' if value is None else f'{value:.3f}'
