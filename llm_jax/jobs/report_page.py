"""The page of a pipeline's report, from its beginning to what to type next."""

import importlib.util
import io
import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from llm_jax.jobs import (
  glossary,
  progress,
  report_tables,
  report_talks,
  rounds_report,
  story,
)
from llm_jax.jobs.page import Block, Code, Figure, Heading, Pieces, Table, Text, texts
from llm_jax.training import metrics

NONE = '–'
SHORT = 2  # metrics that are told first
COMMAND = 'python -m llm_jax.main'

Facts = Mapping[str, Any]


def blocks(config: Any, facts: Facts) -> list[Block]:
  """The page.

  Args:
    config: of the pipeline.
    facts: what `report.json` has.
  """
  stages, columns = facts['stages'], config.report.get('columns', ())
  out: list[Block] = [
    Heading(f'{facts["recipe"]}: how a model was made', 1),
    *_begin(facts, columns),
    Heading('What each stage did'),
  ]
  if importlib.util.find_spec('matplotlib') is None:
    out.append(Text("pip install 'llm_jax[log]' adds matplotlib, which draws curves."))
  for name in stages:
    out += _stage(config, name, facts, columns)
  out += [
    *report_talks.prompts(stages),
    *report_talks.marked(stages),
    *report_talks.before_and_after(stages),
    *report_talks.mistake(facts.get('mistake')),
    *_by_class(stages),
    Heading('What was measured'),
    *([Text(config.report.note)] if config.report.get('note') else []),
    report_tables.quality(facts, columns),
    *report_tables.benchmarks(facts),
    *rounds_report.blocks(facts, columns),
  ]
  for name, stage in stages.items():
    if 'kl_bound' in stage:
      out += [Heading(f'Best of n: {name}'), report_tables.best(stage)]
  out += [
    *_tokens(facts.get('tokens')),
    Heading('What went in'),
    *(
      report_tables.cleaned(name, stage)
      for name, stage in stages.items()
      if stage['job'] == 'clean'
    ),
    *(
      report_tables.corpus(name, stage)
      for name, stage in stages.items()
      if stage['job'] == 'tokenize'
    ),
    Heading('What it cost'),
    *report_tables.cost(facts),
    *_made(facts),
    *following(facts),
  ]
  words = Table(('word', 'what it means here'), glossary.words(texts(out)))
  return [*out, Heading('Words'), words]


def _begin(facts: Facts, columns: Sequence[Sequence[str]]) -> list[Block]:
  """What this page is, and what came out, for somebody who opens it first."""
  stages = facts['stages']
  seconds = [stage['seconds'] for stage in stages.values()]
  made = facts.get('made', {})
  small = facts['device'] == 'cpu' and facts['devices'] == 1
  place = made['machine'] if small and 'machine' in made else made.get('devices', 'this machine')
  bases = [stage for stage in stages.values() if stage.get('kind') == 'base']
  fresh = ' from nothing' if bases and not bases[0].get('parent') else ''
  took = '' if None in seconds else f', which took {_clock(sum(seconds))},'
  told = (
    f'A language model is a program that continues text. This one was made{fresh} in '
    f'{len(stages)} stages ({" → ".join(stages)}){took} on {place}. This page tells '
    'what each stage did, shows what the model said after it, and ends with what to type next. '
    'Words that you may not know are explained at the end.'
  )
  out: list[Block] = [Text(told)]
  short: list[str] = []
  known = {name: stage for name, stage in stages.items() if stage.get('intervals')}
  for metric, heading in report_tables.headings(facts, columns).items():
    found = {n: s['metrics'][metric] for n, s in known.items() if metric in s['metrics']}
    if len(found) > 1 and all(metric in known[name]['intervals'] for name in found):
      n = known[next(iter(found))]['intervals'][metric]['n']
      parts = [
        f'{story.told(value, n).partition(" of ")[0]} after {name}' for name, value in found.items()
      ]
      short.append(f'{heading} ({n:,} were held out): {", ".join(parts)}')
  return [*out, Text(f'In short, {"; ".join(short[:SHORT])}.')] if short else out


def _clock(seconds: float) -> str:
  """A time with its units."""
  return f'{progress.clock(seconds)} ({"hours, " * (seconds >= 3600)}minutes and seconds)'


def _stage(config: Any, name: str, facts: Facts, columns: Sequence[Sequence[str]]) -> list[Block]:
  """A stage: its sentences, its curve, and what shows it best."""
  stages = facts['stages']
  stage, folder = stages[name], config[name].workdir
  purpose = progress.purpose(config[name])
  out: list[Block] = [Heading(f'{name} {purpose}'.strip(), 3)]
  out.append(Text(' '.join(story.sentences(name, stages, report_tables.headings(facts, columns)))))
  surprised, why = story.why_bits_rise(stages)
  out += [Text(why)] if surprised == name else []
  if 'loss' in stage:
    out += _curve(config[name], name)
  for prompt, text in stage.get('continued', {}).items():
    out.append(report_talks.continued(prompt, text))
  return [*out, *report_talks.folded(name, folder)]


def following(facts: Facts) -> list[Block]:
  """What to type next, with the newest model that can be talked to."""
  model = facts.get('newest')
  if not model:
    return []
  model, recipe = shlex.quote(model), _recipe(facts.get('made', {}).get('command', ''))
  lines = (
    ('Talk to it in the terminal:', f'{COMMAND} --config=chat --config.artifact={model}'),
    (
      'Talk to it in a browser, at http://127.0.0.1:8000; the same address is an interface for '
      "programs. It needs pip install 'llm_jax[serve]', in a clone pip install -e '.[serve]':",
      f'{COMMAND} --config=serve --config.artifact={model}',
    ),
    (
      'Say which of its answers are good, on a page, and make data for another round of it:',
      f'{COMMAND} --config=label --config.artifacts={model}',
    ),
    ('Put it to questions beside other models:',
     f'{COMMAND} --config=evaluate --config.artifacts={model}'),
    ('See every option of all that was done here:', f'{COMMAND} {recipe} --help' if recipe else ''),
  )  # fmt: skip
  return [
    Heading('What to type next'),
    *(b for text, line in lines if line for b in (Text(text), Code(line))),
  ]


def _recipe(command: str) -> str:
  """The word of a command that names its config.

  >>> _recipe('python -m llm_jax.main --config=pipeline:gpt --config.only=report')
  '--config=pipeline:gpt'
  """
  words = [*shlex.split(command), '']
  for word, after in itertools.pairwise(words):
    if word == '--config' or word.startswith('--config='):
      return shlex.quote(word if '=' in word else f'{word}={after}')
  return ''


def _by_class(stages: Mapping[str, Facts]) -> list[Block]:
  """A few questions of each class, with what every stage answered, right, wrong or refused."""
  said = {name: stage['by_class'] for name, stage in stages.items() if stage.get('by_class')}
  out: list[Block] = []
  for kind in dict.fromkeys(kind for classes in said.values() for kind in classes):
    known = {name: classes.get(kind, {}) for name, classes in said.items()}
    questions = dict.fromkeys(question for some in known.values() for question in some)
    rows = [
      [question, *(': '.join(reversed(some.get(question, [NONE]))) for some in known.values())]
      for question in questions
    ]
    out += [Heading(f'Questions: {kind}', 3), Table(('question', *known), rows)]
  return [Heading('What it knows, and what it makes up'), *out] if out else []


def _tokens(found: Facts | None) -> list[Block]:
  """A conversation as the last model reads it."""
  if found is None:
    return []
  return [
    Heading('Tokens'),
    Text(
      f'A conversation as {found["stage"]} reads it, {len(found["pieces"])} tokens, which take '
      'turns in three colours. Control tokens, which nobody can type, are in boxes; what training '
      'would predict is underlined.'
    ),
    Pieces(found['pieces']),
  ]


def _made(facts: Facts) -> list[Block]:
  """When, where and by which command the report was made."""
  made = facts.get('made')
  if not made:
    return []
  rows = [[key, value] for key, value in made.items() if value and key != 'command']
  out: list[Block] = [Heading('Where and when'), Table(('what', 'of this run'), rows)]
  return [*out, Text('The command:'), Code(made['command'])] if made.get('command') else out


def _curve(stage: Any, name: str) -> list[Block]:
  """Reward, where there is one, or loss over the updates of a stage."""
  try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Drawing
  except ImportError:  # which the page has said
    return []
  records = metrics.read(stage.workdir)
  what = 'reward' if any('reward' in r for r in records) else 'loss'
  grey, drawn = '#808080', io.BytesIO()  # which can be read on white and on black
  colours: Any = {
    f'{part}color': grey for part in ('text.', 'axes.label', 'axes.edge', 'xtick.', 'ytick.')
  }
  # The same drawing is the same file.
  with rc_context({'svg.hashsalt': 'llm_jax', 'legend.framealpha': 0.0, **colours}):
    drawing = Drawing(figsize=(5.4, 2.6), layout='constrained', facecolor='none')
    axes = drawing.subplots()
    for key in [what, *(f'{key}/{what}' for key in stage.evals)]:
      points = [(r['step'], r[key]) for r in records if r.get(key) is not None]
      label = f'{what} in training' if key == what else f'{what} on what is held out'
      if points:
        style = '-' if key == what else 'o-'
        axes.plot(*zip(*points, strict=True), style, ms=3, lw=1.2, label=label)
    axes.set(xlabel='updates', facecolor='none')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    drawing.savefig(drawn, format='svg', metadata={'Date': None})
  return [Figure(f'{name}.svg', drawn.getvalue(), f'{what} of {name} over its updates')]
