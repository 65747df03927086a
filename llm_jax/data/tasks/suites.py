"""Lists of tasks under one name."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Entry(NamedTuple):
  """A task of a suite.

  Attributes:
    task: a file of data/tasks.
    shots: examples before each question; None for what the task says.
    metric: what stands for the task; '' for what the task says.
    chance: what a guess gets in it; None for what the task says.
    form: 'letters' or 'full' answers; '' for what the task says.
    variant: keyword arguments of the task's `make`.
  """

  task: str
  shots: int | None = None
  metric: str = ''
  chance: float | None = None
  form: str = ''
  variant: Mapping[str, Any] = {}


def _listed(*names: str) -> tuple[Entry, ...]:
  return tuple(map(Entry, names))


SUITES: Mapping[str, Sequence[Entry]] = {
  'glue': _listed(
    'cola', 'sst2', 'mrpc', 'stsb', 'qqp', 'mnli', 'mnli_mismatched', 'qnli', 'rte', 'wnli'
  ),
  'superglue': _listed(
    'boolq', 'cb', 'copa', 'multirc', 'record', 'superglue_rte', 'wic', 'wsc'
  ),
  'commonsense': _listed(
    'hellaswag', 'piqa', 'winogrande', 'arc_easy', 'arc_challenge', 'openbookqa', 'social_iqa',
    'commonsense_qa', 'boolq',
  ),
  'mmlu': _listed('mmlu'),
  'math': _listed('gsm8k', 'gsm_hard', 'svamp', 'math', 'aqua'),
  # The first leaderboard of Hugging Face.
  'open_llm': (
    Entry('arc_challenge', 25, 'acc_norm'),
    Entry('hellaswag', 10, 'acc_norm'),
    Entry('mmlu', 5, 'acc'),
    Entry('truthfulqa_mc2', 0, 'share'),
    Entry('winogrande', 5, 'acc'),
    Entry('gsm8k', 5, 'strict'),
  ),
  # Those of the 22 tasks of CORE (arXiv:2406.11794) that are here, with its numbers of examples,
  # its division by tokens and its chance of BoolQ. Examples are from training sets, and not from
  # what is evaluated as there, so that figures differ a little.
  'core': (
    Entry('hellaswag', 10, 'acc_tokens', 0.25),
    Entry('arc_easy', 10, 'acc_tokens', 0.25),
    Entry('arc_challenge', 10, 'acc_tokens', 0.25),
    Entry('copa', 0, 'acc_tokens', 0.5),
    Entry('commonsense_qa', 10, 'acc_tokens', 0.2, 'full'),
    Entry('piqa', 10, 'acc_tokens', 0.5),
    Entry('openbookqa', 0, 'acc_tokens', 0.25),
    Entry('lambada', 0, 'acc', 0.0),
    Entry('winogrande', 0, 'acc_tokens', 0.5),
    Entry('boolq', 10, 'acc', 0.62),
  ),
}  # fmt: skip
