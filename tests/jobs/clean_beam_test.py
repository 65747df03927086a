"""Job `clean` on Apache Beam leaves the same bytes as on the processes of one machine.

The pipeline itself runs in a stand-in, on every machine; and by Beam's own DirectRunner where Beam
is installed (extra `beam`), which the tests do not ask for: setup.py says why.
"""

import dataclasses
import importlib.util
import json
import random
import shutil

import fsspec
import pytest
from ml_collections import ConfigDict

from llm_jax import main
from llm_jax.clean.page import Fate, Limit, Page
from llm_jax.jobs import clean
from llm_jax.jobs.cleaning import beam, crawl, elements, tally
from llm_jax.types import BadInput
from tests.jobs import beam_stand_in
from tests.jobs.clean_crawl_test import HTML, warc
from tests.jobs.clean_test import ACROSS, RULE, WORDS

HAS_BEAM = importlib.util.find_spec('apache_beam') is not None
needs_beam = pytest.mark.skipif(not HAS_BEAM, reason="needs Apache Beam: pip install -e '.[beam]'")


@pytest.fixture
def stand_in(monkeypatch):
  for module in (beam, elements):
    monkeypatch.setattr(module, 'library', lambda name, *_: beam_stand_in.MODULES[name])


@pytest.fixture
def place(tmp_path):
  """Two sources whose pages are copies of others, nearly so, or share lines; and a crawl."""
  draw = random.Random(0)
  invented = lambda: [f'{draw.choice(WORDS)}{draw.randrange(30)}' for _ in range(60)]
  base = [invented() for _ in range(12)]
  (tmp_path / 'in').mkdir()
  for source in 'ab':
    for part in range(2):
      lines = []
      for i in range(30):
        words = draw.choice([*base, *(invented() for _ in base)]).copy()
        kind = draw.choice(('copy', 'other case', 'near'))
        if kind == 'other case':
          words[0] = words[0].title()
        if kind == 'near':
          words[draw.randrange(60)] = 'otherwise'
        shared = 'This line stands on many pages of the site.\n' if i % 3 == 0 else ''
        page = {'text': shared + ' '.join(words), 'url': f'http://{source}/{draw.randrange(200)}'}
        lines.append(json.dumps({**page, 'score': draw.random()}))
      (tmp_path / 'in' / f'{source}{part}.jsonl').write_text('\n'.join([*lines, '{']) + '\n')
  pages = {f'http://c/{word}': HTML.format(word) for word in ('apples', 'pears')}
  (tmp_path / 'in' / 'c.warc.gz').write_bytes(warc(pages))
  for name, code in (('size', RULE), ('copies', ACROSS)):
    (tmp_path / f'{name}.py').write_text(code)
  return tmp_path


def config(place, **changes):
  """Every kind of step, in a workdir that has the same name for all."""
  c = ConfigDict()
  c.job, c.workdir = 'clean', 'out'
  where = changes.pop('where', str(place / 'in'))
  c.sources = {name: f'{where}/{name}*' for name in 'abc'}
  mine = [str(place / f'{name}.py') for name in ('size', 'copies')]
  c.rules = dict(
    steps=('extract', 'same_url', mine[1], 'exact', mine[0], 'minhash', 'lines'),
    size=dict(low=5, high=100),
    minhash=dict(jaccard=0.5),
    lines=dict(min_characters=10),
  )
  c.shard_documents, c.block_pages, c.workers = 12, 7, 1
  with c.unlocked():
    c.update(changes)
  return c


def files(folder):
  """All that a run left, but what it may go on from."""
  found = {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}
  return {path: data for path, data in found.items() if path.parts[0] not in ('work', '.lock')}


def both(place, monkeypatch, **changes):
  """The files of the local runner and of Beam, from commands that differ in the runner alone."""
  found = []
  for runner in ('local', 'beam'):
    (place / runner).mkdir(exist_ok=True)
    monkeypatch.chdir(place / runner)
    clean.main(config(place, runner=runner, **changes))
    found.append(files(place / runner / 'out'))
  return found


@pytest.mark.parametrize('scope', ['all', 'per_source'])
def test_every_file_has_the_same_bytes(place, monkeypatch, stand_in, scope):
  local, ours = both(place, monkeypatch, scope=scope)
  assert ours == local
  sources = json.loads(local[next(path for path in local if path.name == 'clean.json')])['sources']
  reasons = {reason for source in sources.values() for reason in source['dropped']}
  found = {'same_url.same_url', 'copies.copy', 'exact.duplicate', 'minhash.duplicate'}
  assert found <= reasons
  assert len(local) > 12 and not [*(place / 'beam' / 'out').glob('work')]
  shutil.rmtree(place / 'beam' / 'out' / 'pages')
  clean.main(config(place, runner='local', scope=scope))  # finished, whoever finished it
  assert not (place / 'beam' / 'out' / 'pages').exists()


@needs_beam
def test_every_file_has_the_same_bytes_by_the_direct_runner(place, monkeypatch):
  local, ours = both(place, monkeypatch, beam=dict(runner='DirectRunner'))
  assert ours == local and len(local) > 12


def test_workers_fetch_what_is_at_a_url(place, monkeypatch, stand_in):
  store = fsspec.filesystem('memory')
  for path in (place / 'in').iterdir():
    store.pipe(f'/crawls/in/{path.name}', path.read_bytes())
  left = crawl.units({'all': 'memory://crawls/in'}, urls=True)
  assert [len(unit.paths) for unit in left] == [1] * 5 and left[0].root == 'memory://crawls/in'
  steps = dict(steps=('extract', 'exact'))
  monkeypatch.chdir(place)
  clean.main(config(place, rules=steps))
  local = {path: data for path, data in files(place / 'out').items() if path.parts[0] == 'pages'}
  shutil.rmtree(place / 'out')
  temp = str(place / 'temp')
  c = config(place, where='memory://crawls/in', rules=steps, runner='beam')
  c.beam = dict(temp_location=temp)
  main.run(c)
  assert c.sources.a == 'memory://crawls/in/a*'  # nothing was copied for this process
  assert {p: data for p, data in files(place / 'out').items() if p.parts[0] == 'pages'} == local
  assert not [*(place / 'temp').iterdir()]


def test_what_cannot_be_is_one_line(place, monkeypatch, stand_in):
  monkeypatch.chdir(place)

  def refused(match, **changes):
    with pytest.raises(BadInput, match=match):
      clean.main(config(place, runner='beam', **changes))

  refused("unknown pipeline option 'runnr'; did you mean 'runner'", beam=dict(runnr='x'))
  refused('FlinkRunner needs config.beam.temp_location', beam=dict(runner='FlinkRunner'))
  there = dict(runner='DataflowRunner', temp_location='gs://bucket/tmp')
  refused(r'sources\.a: the workers of Dataflow do not see', beam=there)
  refused("again: runner 'beam' keeps no numbers", again=True)
  unit = crawl.Unit('web', 0, (str(place / 'gone.jsonl'),))
  with pytest.raises(BadInput, match=r'sources\.web: .* does not see .*gone\.jsonl'):
    next(elements.read([0, *unit], beam.Plan({}, '{"steps": []}', 'simple', 'all', 5)))

  def broken(*_):
    raise RuntimeError("Traceback ...\nllm_jax.types.BadInput: rules: it is so [while running 'x']")

  monkeypatch.setattr(beam, '_build', broken)
  refused('^rules: it is so$')
  monkeypatch.undo()
  if not HAS_BEAM:
    refused(r"needs apache_beam .*pip install 'llm_jax\[beam\]'")


@needs_beam
def test_beam_itself_says_what_is_wrong_with_its_options(place, monkeypatch):
  monkeypatch.chdir(place)
  for options, match in (
    (dict(projct='x'), "unknown pipeline option 'projct'; did you mean 'project'"),
    (dict(direct_num_workers='x'), "--direct_num_workers: invalid int value: 'x'"),
    (dict(runner='Nobody'), 'Unexpected pipeline runner: Nobody'),
  ):
    with pytest.raises(BadInput, match=match):
      beam.check(options, {})


def test_a_tally_as_json_is_the_same_tally():
  limits = {'size': (Limit('short', 'words', low=5),)}
  found = tally.Tally(['size', 'exact'], limits)
  for i in range(50):
    values = {'read.characters': i, 'size.words': i / 3, 'size.language': 'en' if i % 2 else 'fr'}
    drop = ('size', 'short') if i < 15 else ('exact', 'duplicate') if i % 3 else ('', '')
    cluster = {'exact.cluster': i % 7 + 2**33} if drop[0] == 'exact' else {}
    page = Page(f'http://{i}', f'text {i}', str.split)
    found.count('web', i, Fate(page, *drop, {**values, **cluster}))
  assert all(getattr(found, field.name) for field in dataclasses.fields(found))
  again = json.loads(json.dumps(found.plain()))
  assert tally.Tally.of(found.steps, found.limits, again) == found
