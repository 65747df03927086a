"""The page that says how far the annotators of job `label` agree, and what to look at first."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_jax.jobs import page
from llm_jax.jobs.label_facts import measured
from llm_jax.jobs.page import Block, Heading, Table, Text
from llm_jax.labels.candidates import Item
from llm_jax.labels.votes import Event

NONE = '–'
RIGHT = 0.8  # of gold items, at least
LOW = 0.4  # an alpha below it
_LONGEST = 400  # characters of a text


def write(
  folder: Path, items: Mapping[str, Item], events: Sequence[Event], exported: Mapping[str, Any]
) -> dict[str, Any]:
  """`report.html`, `report.md` and `report.json` into a folder; the numbers.

  Args:
    folder: of the export.
    items: by id.
    events: of the log.
    exported: what `export.json` has.
  """
  facts = measured(items, events)
  page.write(folder, blocks(facts, exported), 'Labels', facts)
  return facts


def blocks(facts: Mapping[str, Any], exported: Mapping[str, Any]) -> list[Block]:
  """The report.

  Args:
    facts: of `measured`.
    exported: what `export.json` has.
  """
  out: list[Block] = [
    Heading('Labels: what people said, and how far they agree', 1),
    Text(
      f'{exported["labelled"]:,} of {exported["items"]:,} items were seen, in '
      f'{exported["events"]:,} events of {", ".join(facts["annotators"])}.'
    ),
    *(Text(warning) for warning in warnings(facts)),
    Heading('Rows for training'),
    _rows(exported),
    Heading('Annotators'),
    _annotators(facts['annotators']),
    Text(
      'Seconds are the median of a label, slow is the 90th percentile. Itself: how often the same '
      'side won when an item came again the other way round. Gold: how often the answer won that '
      'is not broken. In brackets are 95% intervals (Wilson).'
    ),
    Heading('What else moves the choice'),
    moves(
      {
        'the answer shown first won': facts['position'],
        'the longer answer won': facts['length'],
      }
    ),
    Heading('Agreement'),
    *_coefficients(facts['agreement']),
  ]
  if facts['disputed']:
    rows = [
      [
        _short(one['prompt']),
        *(_short(text) for text in one['answers']),
        ', '.join(f'{who} {grade:+d}' for who, grade in sorted(one['grades'].items())),
        '\n'.join(f'{who}: {_short(text)}' for who, text in sorted(one['comments'].items())),
      ]
      for one in facts['disputed']
    ]
    out += [
      Heading('Most disputed'),
      Table(('prompt', 'one answer', 'another', 'grades', 'comments'), rows),
      Text('A grade above 0 prefers the second of the two.'),
    ]
  if facts['flags']:
    rows = [[reason, str(count)] for reason, count in facts['flags'].items()]
    out += [Heading('Flags'), Table(('reason', 'items'), rows)]
  return out


def warnings(facts: Mapping[str, Any]) -> list[str]:
  """What should be looked at before the rows are trained on."""
  found = []
  for name, one in facts['annotators'].items():
    if one['fast']:
      found.append(
        f'{name} takes {one["seconds"]:.1f} s for a label in the median: too fast to read.'
      )
    if one['gold']['n'] and one['gold']['share'] < RIGHT:
      found.append(f'{name} found {one["gold"]["k"]} of {one["gold"]["n"]} broken answers.')
  position = facts['position']
  if position['n'] and position['p'] < 0.01:
    found.append(
      f'The answer that was shown first won {position["share"]:.0%} of the time '
      f'(p = {position["p"]:.2g}): positions move the choice.'
    )
  alpha = facts['agreement']['krippendorff']
  if alpha and alpha['value'] is not None and alpha['value'] < LOW:
    found.append(
      f'Alpha is {alpha["value"]:.2f}: annotators hardly agree. The guideline is the first '
      'suspect, not the people.'
    )
  return found


def _rows(exported: Mapping[str, Any]) -> Table:
  rows = []
  for name, dropped in exported['dropped'].items():
    out = exported['rows'].get(f'{name}_held_out', 0)
    rows.append([name, f'{exported["rows"][name]:,}', f'{out:,}', counted(dropped) or NONE])
  return Table(('file', 'rows', 'held out', 'not used'), rows)


def _annotators(found: Mapping[str, Any]) -> Table:
  header = ('annotator', 'labels', 'skipped', 'edits', 'undone', 'seconds', 'slow')
  rows = [
    [
      name,
      *(f'{one[key]:,}' for key in ('labels', 'skipped', 'edits', 'undone')),
      *(NONE if one[key] is None else f'{one[key]:.1f}' for key in ('seconds', 'slow')),
      *(share(one[key]) for key in ('position', 'itself', 'gold')),
    ]
    for name, one in found.items()
  ]
  return Table((*header, 'first won', 'itself', 'gold'), rows)


def moves(found: Mapping[str, Mapping[str, Any]]) -> Table:
  """What else than the answers moves the choice: what happened -> the facts of its `Share`."""
  rows = [[text, share(one), f'{one["n"]:,}', f'{one["p"]:.2g}'] for text, one in found.items()]
  return Table(('', 'share', 'n', 'p of a fair coin'), rows)


def _coefficients(found: Mapping[str, Any]) -> list[Block]:
  if not found['items']:
    return [Text('No item was labelled by two annotators; config.overlap=2 asks for that.')]
  rows = [['alpha (Krippendorff, ordinal)', 'all', _sured(found['krippendorff'])]]
  if found['fleiss']:
    rows.append(['kappa (Fleiss, on side)', 'all', _sured(found['fleiss'])])
  for who, one in found['pairs'].items():
    rows.append(['the same side', f'{who} (n = {one["n"]:,})', _sured(one['percent'])])
    rows.append(['kappa (Cohen, quadratic)', f'{who} (n = {one["n"]:,})', _sured(one['cohen'])])
  return [
    Table(('coefficient', 'annotators', 'value'), rows),
    Text(
      f'Over {found["items"]:,} items that two or more have labelled; intervals are bootstrapped '
      'over items. 1 is perfect agreement, 0 as by chance.'
    ),
  ]


def counted(dropped: Mapping[str, int]) -> str:
  """How often something was left out for each reason, in one line.

  >>> counted({'disputed': 1, 'empty answer': 2000})
  '1 disputed, 2,000 empty answer'
  """
  return ', '.join(f'{count:,} {reason}' for reason, count in dropped.items())


def share(found: Mapping[str, Any]) -> str:
  """A share with its interval, as the cell of a table."""
  if not found['n']:
    return NONE
  return f'{found["share"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'


def _sured(found: Mapping[str, Any] | None) -> str:
  if found is None or found['value'] is None:
    return NONE
  if found['low'] is None:
    return f'{found["value"]:.3f}'
  return f'{found["value"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'


def _short(text: str) -> str:
  return text if len(text) <= _LONGEST else text[:_LONGEST] + ' …'
