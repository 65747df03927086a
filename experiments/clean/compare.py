"""Does cleaning matter? The same small model on raw pages and on what each preset keeps of them.

All variants have one tokenizer, one model and the same number of tokens; a seed draws the same
parameters for all of them. What is compared is bits per byte of held-out text, which no page that
is trained on quotes. Prints two Markdown tables; killed and started again it goes on.

    python -m experiments.clean.compare --data my/crawl --held-out wiki=wiki.txt
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from scipy import stats

from configs import clean, evaluate, pretrain, tokenize

# preset of configs/clean.py, options that differ from it, and whether it reads the pages anew.
VARIANTS: dict[str, tuple[str, dict[str, Any], bool]] = {
  'whole': ('default', {'rules.steps': ('experiments.clean.whole', 'decontaminate')}, True),
  'raw': ('default', {'rules.steps': ('extract', 'decontaminate')}, True),
  'default': ('default', {}, False),
  'letters': ('default', {'rules.gopher.min_alpha_words': 0.8}, False),
  'fineweb': ('fineweb', {}, False),
  'c4': ('c4', {}, False),
  'gopher': ('gopher', {}, False),
  'dclm': ('dclm', {}, True),  # it extracts by another engine
}
SAYS = {
  'whole': 'whole pages, menus and footers too',
  'raw': '`raw`: the extracted article, no rule',
  'letters': '`default` with `min_alpha_words=0.8`',
}
VOCABULARY, LENGTH, BATCH = 2048, 256, 16
SHAPE = dict(vocab_size=VOCABULARY, dim=64, num_layers=3, num_heads=4, max_length=LENGTH)


class Place(NamedTuple):
  """Folders of the experiment.

  Attributes:
    root: of all of them.
    data: pages.
    held_out: name -> documents, as `open_source` reads them.
  """

  root: Path
  data: str
  held_out: Mapping[str, str]


def cleaning(place: Place, variant: str) -> ConfigDict:
  """Job `clean` of a variant.

  Pages with 13 words in a row of a held-out document are dropped, where pages are read. Most
  variants go on with the articles of `raw`, which saves extracting them again.
  """
  preset, changes, anew = VARIANTS[variant]
  c = clean.get_config(preset)
  c.workdir = str(place.root / variant / 'clean')
  c.sources = dict(web=place.data if anew else str(place.root / 'raw' / 'clean'))
  for name, value in changes.items():
    *groups, field = name.split('.')
    group = c
    for name in groups:
      group = group[name]
    group[field] = value
  if anew:
    if 'decontaminate' not in c.rules.steps:
      at = c.rules.steps.index('extract') + 1
      c.rules.steps = (*c.rules.steps[:at], 'decontaminate', *c.rules.steps[at:])
    c.rules.decontaminate = dict(items=str(place.root / 'held_out'))
  c.keep_work = False
  return c


def tokenizing(place: Place, variant: str) -> ConfigDict:
  """Job `tokenize` of a variant, with the tokenizer of `raw`."""
  c = _tokenizing(place, variant, place.root / variant / 'clean')
  # A stage wants some; what is evaluated are the rows of the held-out texts.
  c.validation = dict(text=str(place.root / f'held_out/{next(iter(place.held_out))}.jsonl'))
  if variant == 'raw':
    c.tokenizer = tokenize.get_config().tokenizer
    c.tokenizer.vocab_size = VOCABULARY
  return c


def tokenizing_held_out(place: Place, name: str) -> ConfigDict:
  """The same of a held-out text, all of which is in the split `train`."""
  return _tokenizing(place, f'held_out/{name}', place.root / f'held_out/{name}.jsonl')


def _tokenizing(place: Place, name: str, text: Path) -> ConfigDict:
  c = tokenize.get_config()
  c.workdir = str(place.root / name / 'tokenize')
  c.sources = dict(text=str(text))
  c.validation_fraction = 0.0
  c.length, c.pack = LENGTH, 'split'  # without padding, so that equal steps are equal tokens
  c.tokenizer = dict(path=str(place.root / 'raw' / 'tokenize' / 'tokenizer'))
  return c


def training(place: Place, variant: str, seed: int, steps: int) -> ConfigDict:
  """Job `train` of a variant."""
  c = pretrain.get_config()
  c.workdir = str(place.root / variant / f'train_{seed}')
  c.requires, c.next = (), ''
  del c.tokenize
  c.seed, c.total_steps, c.batch_size, c.accumulate = seed, steps, BATCH, 1
  c.model.update(SHAPE)
  c.data = dict(name='packed', path=tokenizing(place, variant).workdir)
  c.optimizer.warmup_steps = steps // 10
  c.eval_every, c.checkpoint_every, c.log_every = steps, max(1, steps // 2), 50
  c.sample.prompts = ()
  c.evals = {}
  return c


def evaluating(place: Place, variant: str, seed: int, steps: int, rows: int = 400) -> ConfigDict:
  """Job `evaluate` of what was trained, on `rows` of each held-out text."""
  c = evaluate.get_config()
  c.artifacts = (training(place, variant, seed, steps).workdir,)
  c.output = str(place.root / variant / f'evaluate_{seed}.json')
  c.evals = {
    name: dict(
      name='perplexity',
      max_rows=rows,
      data=dict(name='packed', path=tokenizing_held_out(place, name).workdir, split='train'),
    )
    for name in place.held_out
  }
  return c


def write_held_out(place: Place) -> None:
  """The held-out documents as JSON lines, which pages are compared with and bits counted on."""
  from llm_jax.data.sources import open_source
  from llm_jax.files import replacing

  (place.root / 'held_out').mkdir(parents=True, exist_ok=True)
  for name, spec in place.held_out.items():
    with replacing(place.root / 'held_out' / f'{name}.jsonl') as file:
      for text in open_source(spec):
        file.write(json.dumps({'text': text}).encode() + b'\n')


def kept(place: Place, variant: str) -> dict[str, int]:
  """Pages, characters and tokens of a variant."""
  told = json.loads(Path(cleaning(place, variant).workdir, 'clean.json').read_text())
  web = told['sources']['web']
  rows = json.loads(Path(tokenizing(place, variant).workdir, 'tokenize.json').read_text())
  tokens = rows['sources']['text']['train']['tokens']
  return {'pages': web['kept'], 'characters': web['characters'], 'tokens': tokens}


def bits(config: ConfigDict, run: Callable[[ConfigDict], None]) -> dict[str, float]:
  """Held-out text -> bits per byte; a job `evaluate` whose numbers are there is not run again."""
  output = Path(config.output)
  if not output.is_file() or json.loads(output.read_text())['evals'] != config.evals.to_dict():
    run(config)
  found = json.loads(output.read_text())['metrics'][config.artifacts[0]]
  return {name: found[f'{name}/bits_per_byte'] for name in config.evals}


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
  """Mean of paired differences, and half of its interval by Student's t.

  >>> interval([-0.02, -0.03, -0.04])
  (-0.03, 0.02484...)
  """
  count = len(differences)
  if count < 2:
    return statistics.mean(differences), float('inf')
  quantile = float(stats.t.ppf((1 + level) / 2, count - 1))
  return statistics.mean(differences), quantile * statistics.stdev(differences) / count**0.5


def table(found: Mapping[str, Sequence[Mapping[str, float]]], base: str) -> str:
  """Bits per byte, means over seeds, with differences to `base` and their intervals, in Markdown.

  Args:
    found: variant -> for each seed, held-out text -> bits per byte.
    base: the variant that others are compared with, seed by seed.
  """
  texts = list(found[base][0])
  lines = [
    ['variant', *(f'{head}' for text in texts for head in (text, f'against {base}'))],
    ['---', *['---:'] * (2 * len(texts))],
  ]
  for variant, runs in found.items():
    cells = [SAYS.get(variant, f'`{variant}`')]
    for text in texts:
      cells.append(f'{statistics.mean(run[text] for run in runs):.3f}')
      mean, half = interval([a[text] - b[text] for a, b in zip(runs, found[base], strict=True)])
      cells.append('' if variant == base else f'{mean:+.3f} ± {half:.3f}'.replace('-', '−'))
    lines.append(cells)
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def keeps(counts: Mapping[str, Mapping[str, int]], read: int) -> str:
  """What each variant keeps, and how often `read` tokens go through it, in Markdown."""
  lines = [
    '| variant | pages | million characters | million tokens | epochs |',
    '| --- | ---: | ---: | ---: | ---: |',
  ]
  for variant, count in counts.items():
    lines.append(
      f'| {SAYS.get(variant, f"`{variant}`")} | {count["pages"]:,} | '
      f'{count["characters"] / 1e6:.1f} | {count["tokens"] / 1e6:.2f} | '
      f'{read / count["tokens"]:.2f} |'
    )
  return '\n'.join(lines)


def main() -> None:
  """Runs what is missing and prints the tables."""
  from llm_jax.main import run
  from llm_jax.parallel.flags import tune_cpu

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', required=True, help='folder, file or glob of pages, as job clean')
  parser.add_argument('--held-out', action='append', required=True, metavar='NAME=DOCUMENTS')
  parser.add_argument('--workdir', type=Path, default=Path('runs/does_cleaning_matter'))
  parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--steps', type=int, default=300, help='updates of 4,096 tokens')
  given = parser.parse_args()
  place = Place(given.workdir, given.data, dict(x.split('=', 1) for x in given.held_out))
  tune_cpu()
  write_held_out(place)
  variants = ['raw', *(name for name in given.variants if name != 'raw')]
  for variant in variants:
    run(cleaning(place, variant))
    run(tokenizing(place, variant))
  for name in place.held_out:
    run(tokenizing_held_out(place, name))
  found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS if name in variants}
  for seed in range(given.seeds):
    for variant in variants:
      run(training(place, variant, seed, given.steps))
      found[variant].append(bits(evaluating(place, variant, seed, given.steps), run))
  read = given.steps * BATCH * LENGTH
  print(keeps({name: kept(place, name) for name in found}, read), end='\n\n')
  for base in ('raw', 'default'):
    if base in found:
      print(table(found, base), end='\n\n')


if __name__ == '__main__':
  main()
