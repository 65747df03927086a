"""The report that job `compress` writes beside the artifact."""

from collections.abc import Mapping
from typing import Any

from llm_jax.jobs import comparison
from llm_jax.jobs.page import Block, Heading, Table, Text


def text(facts: Mapping[str, Any]) -> str:
  """The table of sizes and metrics, as the terminal shows it."""
  return comparison.text(_table(facts))


def blocks(facts: Mapping[str, Any]) -> list[Block]:
  """All of the page."""
  method = ', '.join(f'{key} {value}' for key, value in facts['method'].items())
  found: list[Block] = [
    Heading('What compression changed', 1),
    Text(
      f'{facts["artifact"]} by {method}, on {facts["rows"]} rows of calibration text where the '
      f'method asks for some. It took {facts["seconds"]:.0f} s on {facts["device"]}.'
    ),
    _table(facts),
  ]
  if errors := facts['logit_error']:
    rows = [[str(i), f'{error:.4f}'] for i, error in enumerate(errors['layers'])]
    found += [
      Heading('Layers'),
      Text(
        'By how much logits of held-out text change (root mean square) where one layer alone is '
        f'compressed; {errors["all"]:.4f} with all of them.'
      ),
      Table(['layer', 'logit error'], rows),
    ]
  return found


def _table(facts: Mapping[str, Any]) -> Table:
  size, metrics = facts['bytes'], facts['metrics']
  rows = [
    ['megabytes', *(f'{size[name] / 1e6:.3f}' for name in ('before', 'after'))],
    ['bits per compressed weight', '–', f'{facts["bits_per_weight"]:.2f}'],
  ]
  changes = [f'{size["after"] / size["before"] - 1:+.1%}', '–']
  for name, before in metrics['before'].items():
    after = metrics['after'][name]
    rows.append([name, f'{before:.4f}', f'{after:.4f}'])
    changes.append(f'{after / before - 1:+.2%}' if before else '–')
  lines = [[*row, change] for row, change in zip(rows, changes, strict=True)]
  return Table(['', 'before', 'after', 'change'], lines)
