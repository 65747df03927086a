"""Answers to one prompt as a group of rows, best first; or single answers, labelled good or bad.

A pair is a group of two, and a ranking of K answers is a group of K. The rows of KTO have a label
instead. They can also hold what its estimate of the KL divergence needs: the same prompt with the
answer to another one (arXiv:2402.01306, sec. 4.1), which is that of the row before, as in TRL.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from llm_jax.data import formats, kept, lengths, records
from llm_jax.data.formats import BadRow, Messages
from llm_jax.data.groups import Answer, Group, Groups, Kept, as_rows, fit, has_twins, needed
from llm_jax.data.mixture import Mixture
from llm_jax.options import Count, MinP, PlaceOrNone, at_least, checked
from llm_jax.text import chat
from llm_jax.text.terminal import say
from llm_jax.types import BadInput, Tokenizer

ROW = ('tokens', 'mask', 'position', 'segment')
WRITES = lambda o: (
  *ROW,
  'margin' if o['kind'] == 'ranked' else 'label',
  *(f'kl_{name}' for name in ROW if o['mismatched']),
)
_BATCH = 2048  # groups encoded at once


class _Candidate(NamedTuple):
  """A group before it is encoded; `where` names its record in errors."""

  where: str
  prompt: Messages
  answers: list[Messages]
  value: float


@checked(where='data')
def make(
  tokenizer: Tokenizer,
  *,
  sources: Mapping[str, str],
  split: str = 'train',
  length: Annotated[int, at_least(2)] = 256,
  group: Count = 2,
  template: str = 'llm_jax',
  date: str = '',
  kind: Literal['ranked', 'unpaired'] = 'ranked',
  invalid: Literal['drop', 'raise'] = 'drop',
  overlong: Literal['drop', 'cut_prompt', 'cut_answer'] = 'drop',
  mismatched: bool = False,
  weights: Mapping[str, float] | None = None,
  validation: Mapping[str, str] | None = None,
  validation_fraction: MinP = 0.01,
  map: str = '',
  cache: PlaceOrNone = '',
) -> Mixture:
  """Groups of answers, as a random-access sequence; prints one line about them.

  Args:
    tokenizer: one that has the control tokens of the template.
    sources: name -> 'builtin', 'builtin:<family>', files or a dataset, as in
      `llm_jax.data.records`; an empty text leaves the source out.
    split: 'train' or 'validation'; also another that the sources have, as builtin ones have 'test'.
    length: L, tokens of a row.
    group: G, the most answers of a ranking; 'unpaired' rows have G = 1.
    template: one of `chat.TEMPLATES`, 'folder' for the one that came with the tokenizer, or a file
      in Jinja.
    date: what a template in Jinja takes for today, such as 2026-01-31; see `chat.find_template`.
    kind: 'ranked', or 'unpaired': one answer a row, from a ranking the best and the worst.
    invalid: whether to 'drop' a group or 'raise' an error if its answers are identical, tied, empty
      or more than `group`, have different prompts, or a score or margin that is not finite.
    overlong: what becomes of more than L tokens: 'drop' leaves the group out, 'cut_prompt' keeps
      the end of the prompt, the same for all answers, and 'cut_answer' keeps the beginning of each
      answer, without a stop token. A group that then does not fit or has equal answers is left out.
    mismatched: whether 'unpaired' rows also have the prompt with the answer of the row before, cut
      if it is too long, as fields `kl_tokens`, `kl_segment`, `kl_position` and `kl_mask`.
    weights: source -> share of the groups; see `llm_jax.data.mixture`.
    validation: source -> what to read for its validation split.
    validation_fraction: share of the prompts held out of sources without a validation split.
    map: a module or file of yours with a function `record(record)`, which makes of each record one
      in a format that is read, or None to leave it out.
    cache: a folder that keeps the groups of files and datasets once they are encoded, in shards of
      10,000 records; so there may be more of them than memory holds, and a run that starts again
      has them at once. '' keeps them in memory. Hosts of a job share it, as do runs side by side.
      Messages of trees are read into memory all the same.

  Returns:
    A sequence of dicts of arrays [G, L]: `tokens`, `segment` (1, or 0 on padding, which is on the
    right, and everywhere if there is no answer), `position` int32, `mask` float32 (1 on the answer
    and its stop token); and a float32 scalar, `margin` (0 if none is given) or `label` (1 is good).

  Raises:
    BadInput: an option, source or record cannot be used, or no groups are left.
  """
  if kind == 'ranked' and group < 2:
    raise BadInput(f'data.group {group} compares nothing; use 2 or more, or kind unpaired')
  if mismatched and kind != 'unpaired':
    raise BadInput('data.mismatched belongs to kind unpaired; remove it or set kind to unpaired')
  written = chat.find_template(template, tokenizer, date)
  chosen = records.chosen(sources, validation, validation_fraction)
  header = chat.encode(tokenizer, chat.pieces([], template=written, answer=True))[0]
  most = group if kind == 'ranked' else 1
  encode = partial(_groups, tokenizer, written, most, invalid, length, overlong, header)
  parse = _parse_ranked if kind == 'ranked' else _parse_labelled
  arranged = partial(
    Groups,
    length=length,
    size=most,
    value='margin' if kind == 'ranked' else 'label',
    mismatched=mismatched,
    pad=tokenizer.pad_id,
  )
  rows, tallies = records.by_source(
    chosen,
    lambda _, record: parse(record),
    lambda some: some[0].prompt,
    kind='preferences',
    which=dict(
      split=split, validation=validation, validation_fraction=validation_fraction, map=map
    ),
    rows=lambda found: _in_memory(arranged, *encode(found)),
    cache=cache,
    made_from={
      'tokenizer': tokenizer.fingerprint,
      'template': getattr(written, 'text', written),
      'options': [kind, most, invalid, length, overlong],
    },
    encode=lambda some: as_rows(*encode(some)),
    opened=lambda shards: arranged(Kept(shards)),
  )
  left_out = tallies['left out']
  _report(split, length, rows, tallies['answers'], tallies['sizes'], left_out)
  if not rows:
    raise records.none_left('preferences', split, chosen, left_out)
  weights = records.weights_left(weights, rows, sources)
  return Mixture(rows, weights)


# --- from records to groups --------------------------------------------------------------------


def _parse_ranked(record: Mapping[str, Any]) -> list[_Candidate]:
  prompt, answers, margin = formats.preference(record)
  return [_Candidate('', prompt, answers, 0.0 if margin is None else margin)]


def _parse_labelled(record: Mapping[str, Any]) -> list[_Candidate]:
  return [
    _Candidate('', prompt, [answer], float(label))
    for prompt, answer, label in formats.labelled(record)
  ]


def _valid(
  found: Iterable[tuple[str, list[_Candidate] | BadRow]],
  group: int,
  invalid: str,
  counts: Counter[str],
) -> list[_Candidate]:
  """Candidates without a fault that shows before they are encoded.

  The first candidates of all records come before the second ones, so that the two answers of a
  record are not neighbours.
  """
  valid: list[list[_Candidate]] = [[], []]
  for where, item in found:
    counts['records'] += 1
    if isinstance(item, BadRow):
      _bad(where, item.reason, invalid, counts)
      continue
    for place, candidate in enumerate(item):
      if len(candidate.answers) > group:
        reason = 'more answers than group'
      elif not all(any(map(_says_something, answer)) for answer in candidate.answers):
        reason = 'empty answer'
      else:
        valid[place].append(candidate._replace(where=where))
        continue
      _bad(where, reason, invalid, counts)
  return valid[0] + valid[1]


def _bad(where: str, reason: str, invalid: str, counts: Counter[str]) -> None:
  if invalid == 'raise':
    raise BadInput(f'{where}: {reason}; mend it, or set config.data.invalid=drop')
  counts[reason] += 1


def _says_something(message: Mapping[str, Any]) -> bool:
  content = message.get('content') or ''
  text = content if isinstance(content, str) else ''.join(part.get('text', '') for part in content)
  return message['role'] == 'assistant' and bool(text.strip() or message.get('tool_calls'))


def _groups(
  tokenizer: Tokenizer,
  template: chat.ChatTemplate,
  most: int,
  invalid: str,
  length: int,
  overlong: str,
  header: Sequence[int],
  found: Iterable[tuple[str, list[_Candidate] | BadRow]],
) -> tuple[list[Group], kept.Tallies]:
  """The groups that can be trained on, and what is counted of them."""
  counts: Counter[str] = Counter()
  candidates = _valid(found, most, invalid, counts)
  whole = _comparable(tokenizer, candidates, template, invalid, counts)
  fitted = [fit(group, length, overlong, header, counts) for group in whole]
  groups = [group for group in fitted if group]
  answers = [answer for group in groups for answer in group.answers]
  return groups, {
    'left out': counts,
    'sizes': Counter(needed(group, overlong, header) for group in whole),
    'answers': Counter(all=len(answers), trained=sum(sum(answer.mask) for answer in answers)),
  }


def _in_memory(
  arranged: Callable[[Sequence[Group]], Groups], some: Sequence[Group], tallies: kept.Tallies
) -> tuple[Groups, kept.Tallies]:
  return arranged(some), tallies


def _comparable(
  tokenizer: Tokenizer,
  candidates: Sequence[_Candidate],
  template: chat.ChatTemplate,
  invalid: str,
  counts: Counter[str],
) -> list[Group]:
  """The groups whose answers differ in what is trained."""
  groups = []
  for start in range(0, len(candidates), _BATCH):
    some = candidates[start : start + _BATCH]
    for candidate, group in zip(some, _encode(tokenizer, some, template), strict=True):
      if group is None:
        _bad(candidate.where, 'no border between prompt and answer', invalid, counts)
      elif has_twins(group):
        _bad(candidate.where, 'identical answers', invalid, counts)
      else:
        groups.append(group)
  return groups


def _encode(
  tokenizer: Tokenizer, some: Sequence[_Candidate], template: chat.ChatTemplate
) -> list[Group | None]:
  """Ids of the prompt up to the answer, as a sampler would see it, and of each answer after it.

  None where a token is the end of the prompt and the begin of an answer, or no answer is a target.
  """
  listed, stops = [], set(chat.stop_ids(tokenizer, template))
  for candidate in some:
    prompt = candidate.prompt
    try:
      listed.append(chat.pieces(prompt, template=template, answer=True))
      asked = [chat.untrained(message) for message in prompt]
      listed += [chat.pieces([*asked, *answer], template=template) for answer in candidate.answers]
    except BadInput as error:
      raise BadInput(f'{candidate.where}: {error}') from error
  encoded = iter(chat.encode_all(tokenizer, listed))
  groups: list[Group | None] = []
  for candidate in some:
    prompt, _ = next(encoded)
    answers, begin = [], len(prompt)
    for ids, mask in (next(encoded) for _ in candidate.answers):
      said = [place for place, one in enumerate(mask) if one]
      if ids[:begin] != prompt or not said:
        continue
      # Nothing is sampled after the stop token, even if a template marks more.
      last = max((place for place in said if ids[place] in stops), default=said[-1])
      answers.append(Answer(ids[begin : last + 1], mask[begin : last + 1]))
    whole = len(answers) == len(candidate.answers)
    groups.append(Group(prompt, answers, candidate.value) if whole else None)
  return groups


def _report(
  split: str,
  length: int,
  rows: Mapping[str, Groups],
  answers: Mapping[str, int],
  sizes: Mapping[int, int],
  counts: Counter[str],
) -> None:
  """Prints one line, which also counts what was left out and why."""
  count, trained = (answers.get(name, 0) for name in ('all', 'trained'))
  number = sum(map(len, rows.values()))
  line = (
    f'preferences: {split}, {counts.pop("records", 0):,} records in {number:,} groups '
    f'with {count:,} answers of {trained / max(count, 1):.1f} tokens'
  )
  advice = lengths.advice(split, length, sizes)
  words = {
    'dropped': f'longer than {length} and dropped' + advice,
    'answer too long': 'left out: answer too long' + advice,
    'prompt too long': 'left out: prompt too long' + advice,
    'cut_prompt': 'prompts cut at their beginning',
    'cut_answer': 'groups with answers cut at their end',
  }
  counts['mismatched answers cut'] = sum(some.cut_mismatches() for some in rows.values())
  for reason, count in counts.items():
    if count:
      kept = 'mismatched' in reason
      line += f'; {count:,} ' + words.get(reason, reason if kept else f'left out: {reason}')
  say(line)
