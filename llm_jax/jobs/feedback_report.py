"""The page that says what users thought of answers, and what else may have moved their thumbs."""

import statistics as moments
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.jobs import page
from llm_jax.jobs.label_facts import Share
from llm_jax.jobs.label_report import counted, moves
from llm_jax.jobs.page import Block, Heading, Table, Text
from llm_jax.labels import acts
from llm_jax.labels.acts import Act
from llm_jax.labels.said import State

NONE = '–'
MOVED = 0.01  # of a p-value, below which something moves the choice


def write(folder: Path, events: Sequence[Mapping[str, Any]], exported: Mapping[str, Any]) -> None:
  """`report.html`, `report.md` and `report.json` into a folder.

  Args:
    folder: of the export.
    events: of the log.
    exported: what `export.json` has.
  """
  facts = measured(one for one in events if one['seq'] <= exported['last'])
  page.write(folder, blocks(facts, exported), 'Feedback', facts)


def measured(events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """The numbers of the report, of all events of a log.

  Returns:
    `days` and `artifacts`: thumbs by day and by fingerprint; `picks`: how often the draft that was
    shown first, and the longer one, was kept; `words`: in the median, by thumb; `longer`: how often
    of a user's two thumbs the one up is for the longer answer.
  """
  state = State(acts.read(events)[0])
  thumbs = [*state.thumbs.values()]
  by = lambda key: {name: _thumbs(found) for name, found in sorted(_grouped(thumbs, key).items())}
  picks = [one for one in state.kept.values() if one.value['act'] == 'pick' and one.others]
  return {
    'days': by(lambda one: one.day),
    'artifacts': by(lambda one: one.artifact),
    'all': _thumbs(thumbs),
    'tags': dict(Counter(tag for one in thumbs for tag in one.value['tags']).most_common(20)),
    'picks': {'first': _first(picks).facts(), 'longer': _longer_kept(picks).facts()},
    'words': {
      name: _median(one for one in thumbs if one.value['grade'] == grade)
      for name, grade in (('up', 1), ('down', -1))
    },
    'longer': _longer_liked(thumbs).facts(),
  }


def _grouped(found: Iterable[Act], key: Any) -> dict[Any, list[Act]]:
  groups: dict[Any, list[Act]] = defaultdict(list)
  for one in found:
    groups[key(one)].append(one)
  return groups


def _thumbs(found: Sequence[Act]) -> dict[str, Any]:
  """How many are up and down, and the share of those up: the mean over users, who count alike."""
  ups = [one.value['grade'] > 0 for one in found]
  of_users = [
    sum(one.value['grade'] > 0 for one in own) / len(own)
    for own in _grouped(found, lambda one: one.user).values()
  ]
  return {
    'up': sum(ups),
    'down': len(ups) - sum(ups),
    'users': len(of_users),
    'share': sum(of_users) / len(of_users) if of_users else None,
  }


def _words(text: str) -> int:
  return len(text.split())


def _median(found: Iterable[Act]) -> float | None:
  words = [_words(one.answer.text) for one in found]
  return moments.median(words) if words else None


def _first(picks: Sequence[Act]) -> Share:
  """How often the draft that was shown first was kept, where two were shown."""
  two = [one for one in picks if len(one.others) == 1 and one.answer.id in one.value['shown']]
  return Share(sum(one.value['shown'][0] == one.answer.id for one in two), len(two))


def _longer_kept(picks: Sequence[Act]) -> Share:
  """How often the longer of two drafts was kept."""
  two = [(one.answer, *one.others) for one in picks if len(one.others) == 1]
  apart = [_words(kept.text) - _words(other.text) for kept, other in two]
  return Share(sum(far > 0 for far in apart), sum(far != 0 for far in apart))


def _longer_liked(thumbs: Sequence[Act]) -> Share:
  """Of a user's thumb up and thumb down that follow each other, how often the longer has the up."""
  longer = count = 0
  for own in _grouped(thumbs, lambda one: one.user).values():
    ups = [one for one in own if one.value['grade'] > 0]
    downs = [one for one in own if one.value['grade'] < 0]
    for up, down in zip(ups, downs):  # each thumb once, or one user would be many
      far = _words(up.answer.text) - _words(down.answer.text)
      longer, count = longer + (far > 0), count + (far != 0)
  return Share(longer, count)


# --- the page -----------------------------------------------------------------------------------


def blocks(facts: Mapping[str, Any], exported: Mapping[str, Any]) -> list[Block]:
  """The report.

  Args:
    facts: of `measured`.
    exported: what `export.json` has.
  """
  dropped = exported['dropped']
  rows = [
    [name, f'{count:,}', counted(dropped[name]) or NONE] for name, count in exported['rows'].items()
  ]
  stripped = ', '.join(f'{count:,} {name}' for name, count in exported['stripped'].items())
  agreement = exported['agreement']
  return [
    Heading('Feedback: what users thought of answers', 1),
    Text(f'{exported["events"]:,} events of {exported["users"]:,} users.'),
    *(Text(warning) for warning in warnings(facts)),
    Heading('Rows for training'),
    Table(('file', 'rows', 'left out'), rows),
    Text(
      f'Events that were left out: {counted(dropped["events"]) or "none"}. Stripped from the rows: '
      f'{stripped}.'
      + (
        f' On {agreement["n"]:,} rows with several users, {agreement["share"]:.0%} of them agree.'
        if agreement['n']
        else ''
      )
    ),
    Heading('Models'),
    Table(
      ('model', 'fingerprint', *exported['rows'], 'up', 'down', 'users', 'share up'),
      [_model(name, one, facts) for name, one in exported['artifacts'].items()],
    ),
    Heading('Days'),
    Table(
      ('day', 'up', 'down', 'users', 'share up'),
      [[day, *_shown(one)] for day, one in facts['days'].items()],
    ),
    Text('The share is the mean over users, so that those who rate much count no more.'),
    Heading('What else moves the choice'),
    moves(_chances(facts)),
    Text(
      'Median words of an answer with a thumb up: {up}, with a thumb down: {down}.'.format(
        **{name: NONE if one is None else f'{one:g}' for name, one in facts['words'].items()}
      )
    ),
    *(
      [Heading('Reasons'), Table(('reason', 'thumbs'), [[k, f'{v:,}'] for k, v in tags.items()])]
      if (tags := facts['tags'])
      else []
    ),
  ]


def warnings(facts: Mapping[str, Any]) -> list[str]:
  """What should be looked at before the rows are trained on."""
  return [
    f'{name[0].upper()}{name[1:]} {one["share"]:.0%} of the time (p = {one["p"]:.2g}): a model '
    'that is trained on these rows may learn this, and not what is right.'
    for name, one in _chances(facts).items()
    if one['n'] and one['p'] < MOVED
  ]


def reasons(dropped: Mapping[str, Mapping[str, int]]) -> str:
  """What was left out, by file and reason, in one line."""
  told = [f'{name}: {counted(counts)}' for name, counts in dropped.items() if counts]
  return '; '.join(told)


def _chances(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  return {
    'the draft shown first was kept': facts['picks']['first'],
    'the longer draft was kept': facts['picks']['longer'],
    'the longer answer got the thumb up': facts['longer'],
  }


def _model(name: str, one: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
  rows = [f'{count:,}' for count in one['rows'].values()]
  return [one['model'], name[:12], *rows, *_shown(facts['artifacts'].get(name, _thumbs([])))]


def _shown(thumbs: Mapping[str, Any]) -> list[str]:
  counts = [f'{thumbs[name]:,}' for name in ('up', 'down', 'users')]
  return [*counts, NONE if thumbs['share'] is None else f'{thumbs["share"]:.3f}']
