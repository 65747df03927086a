"""experiments/clean: its configs pass their jobs' checks, and its tables say what was measured."""

import gzip
import json
from pathlib import Path

import pytest

from experiments.clean import compare, wcxb, whole
from experiments.clean.compare import VARIANTS, Place
from llm_jax.clean.page import Page
from llm_jax.find import find

ENOUGH = ' '.join(f'word{i}' for i in range(20))


@pytest.fixture
def place(tmp_path):
  """A page, a held-out document, and what the job would have left of `raw`."""
  (tmp_path / 'pages').mkdir()
  (tmp_path / 'pages' / '0.html').write_text(f'<p>{ENOUGH}</p>')
  (tmp_path / 'wiki.txt').write_text(ENOUGH)
  left = tmp_path / 'root' / 'raw' / 'clean'
  left.mkdir(parents=True)
  (left / 'web.jsonl').write_text(json.dumps({'text': ENOUGH}))
  made = Place(tmp_path / 'root', str(tmp_path / 'pages'), {'c4': str(tmp_path / 'wiki.txt')})
  compare.write_held_out(made)
  return made


def test_configs_pass_the_checks_of_their_jobs(place):
  for variant in VARIANTS:
    for config in (
      compare.cleaning(place, variant),
      compare.tokenizing(place, variant),
      compare.training(place, variant, seed=1, steps=40),
    ):
      find('jobs', config.job).check(config)
  for text in place.held_out:
    find('jobs', 'tokenize').check(compare.tokenizing_held_out(place, text))


def test_variants_differ_in_what_they_say_alone(place):
  rules = {name: compare.cleaning(place, name).rules.to_dict() for name in VARIANTS}
  assert rules['raw']['steps'] == ('extract', 'decontaminate')
  assert (
    rules['dclm']['steps'].index('decontaminate') == rules['dclm']['steps'].index('extract') + 1
  )
  changed = rules['letters']['gopher'].pop('min_alpha_words')
  assert changed == 0.8 and rules['default']['gopher'].pop('min_alpha_words') != changed
  assert rules['letters'] == rules['default']
  runs = [compare.training(place, name, seed=2, steps=40).to_dict() for name in ('raw', 'c4')]
  different = {key for key in runs[0] if runs[0][key] != runs[1][key]}
  assert different == {'workdir', 'data'} and runs[0]['seed'] == 2
  # A held-out text may have the name of a variant.
  texts = [compare.tokenizing(place, 'c4'), compare.tokenizing_held_out(place, 'c4')]
  assert [c.sources.text for c in texts] == [
    str(place.root / 'c4' / 'clean'),
    str(place.root / 'held_out' / 'c4.jsonl'),
  ]
  assert texts[0].workdir != texts[1].workdir
  words = {'path': str(place.root / 'raw' / 'tokenize' / 'tokenizer')}
  assert all(c.tokenizer.to_dict() == words for c in texts)
  assert compare.tokenizing(place, 'raw').tokenizer.vocab_size == compare.VOCABULARY


def test_what_is_evaluated_already_is_not_evaluated_again(place):
  config = compare.evaluating(place, 'c4', seed=0, steps=40)
  assert config.artifacts == (compare.training(place, 'c4', 0, 40).workdir,)
  ran = []

  def run(config):
    ran.append(config.evals.to_dict())
    metrics = {config.artifacts[0]: {f'{name}/bits_per_byte': 2.5 for name in config.evals}}
    path = Path(config.output)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({'evals': ran[-1], 'metrics': metrics}))

  assert compare.bits(config, run) == compare.bits(config, run) == {'c4': 2.5} and len(ran) == 1
  config.evals.c4.max_rows = 7  # something else is asked
  compare.bits(config, run)
  assert len(ran) == 2


def test_tables_have_paired_differences_and_their_intervals():
  # Differences of mean -0.03 and standard deviation 0.01; t of two degrees of freedom is 4.3027.
  found = {
    'raw': [{'wiki': 2.00}, {'wiki': 2.10}, {'wiki': 2.30}],
    'c4': [{'wiki': 1.98}, {'wiki': 2.07}, {'wiki': 2.26}],
  }
  mean, half = compare.interval([-0.02, -0.03, -0.04])
  assert mean == pytest.approx(-0.03) and half == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-5)
  assert compare.interval([0.5]) == (0.5, float('inf'))
  rows = compare.table(found, 'raw').split('\n')
  assert rows[0] == '| variant | wiki | against raw |'
  assert rows[2].endswith('| 2.133 |  |') and rows[3] == '| `c4` | 2.103 | −0.030 ± 0.025 |'
  only = compare.table({'c4': found['c4'], 'raw': found['raw']}, 'c4').split('\n')
  assert only[3].endswith('| 2.133 | +0.030 ± 0.025 |')
  kept = compare.keeps(
    {'c4': {'pages': 1234, 'characters': 2_500_000, 'tokens': 800_000}}, 1_600_000
  )
  assert kept.split('\n')[2] == '| `c4` | 1,234 | 2.5 | 0.80 | 2.00 |'


def test_a_whole_page_has_its_menu_and_no_script():
  body = b'<nav>Home</nav><script>run()</script><p>One\0 caf\xc3\xa9.</p><footer>Imprint</footer>'
  page, values = whole.make().measure(Page('', '', str.split, body))
  assert page.text.split() == ['Home', 'One', 'café.', 'Imprint'] and values['characters'] > 10
  assert whole.make()(Page('', '', str.split, b'<script>run()</script>')).reason == 'empty'
  given = Page('', 'A text.', str.split)
  assert whole.make()(given) is given


def test_a_benchmark_becomes_pages_and_held_out_text(tmp_path):
  for split in ('dev', 'test'):
    (tmp_path / split / 'html').mkdir(parents=True)
    (tmp_path / split / 'ground-truth').mkdir()
    (tmp_path / split / 'html' / f'{split}.html.gz').write_bytes(gzip.compress(split.encode()))
  truths = {'1': {'main_content': 'A\n\nB'}, '2': {'title': 'No text'}, '3': {'main_content': 'C'}}
  for name, truth in truths.items():
    path = tmp_path / 'test' / 'ground-truth' / f'{name}.json'
    path.write_text(json.dumps({'ground_truth': truth}))
  kinds = {'1': 'article', '2': 'article', '3': 'forum'}
  files = {name: {'page_type': kind} for name, kind in kinds.items()}
  (tmp_path / 'metadata.json').write_text(json.dumps({'files': files}))
  wcxb.prepare(tmp_path, tmp_path / 'out')
  assert [p.name for p in (tmp_path / 'out' / 'pages').iterdir()] == ['dev.html']
  assert (tmp_path / 'out' / 'pages' / 'dev.html').read_text() == 'dev'
  assert json.loads((tmp_path / 'out' / 'articles.jsonl').read_text()) == {'text': 'A\nB'}
  assert json.loads((tmp_path / 'out' / 'others.jsonl').read_text()) == {'text': 'C'}
