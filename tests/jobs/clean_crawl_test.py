"""Sources of every kind through the job: crawls, saved pages, records, damage of all sorts."""

import gzip
import json
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from configs import clean as cleaning
from llm_jax.jobs import clean
from llm_jax.jobs.cleaning import crawl
from llm_jax.types import BadInput
from tests.jobs.clean_test import RULE, config, records

HTML = (
  '<html><head><title>{0}</title></head><body><nav>Home</nav><article><h1>{0}</h1>'
  '<p>This page speaks of {0} at some length, with several whole sentences. It has a second one. '
  'And there is a third sentence, so that an extractor takes it for an article.</p></article>'
  '</body></html>'
)


def warc(bodies: dict[str, str]) -> bytes:
  """A file of a crawl, one gzip member a record."""
  out = b''
  for url, body in bodies.items():
    page = body.encode()
    http = b'HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n' + page
    head = (
      f'WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\n'
      'WARC-Date: 2026-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n'
      f'Content-Length: {len(http)}\r\n\r\n'
    )
    out += gzip.compress(head.encode() + http + b'\r\n\r\n')
  return out


@pytest.fixture
def place(tmp_path):
  (tmp_path / 'crawl').mkdir()
  pages = {f'http://a/{word}': HTML.format(word) for word in ('apples', 'pears')}
  (tmp_path / 'crawl' / 'a.warc.gz').write_bytes(warc(pages))
  cut = warc({'http://b/plums': HTML.format('plums'), 'http://b/figs': HTML.format('figs')})
  (tmp_path / 'crawl' / 'b.warc.gz').write_bytes(cut[:-30])
  (tmp_path / 'saved' / 'deep').mkdir(parents=True)
  for word in ('dates', 'deep/limes'):
    (tmp_path / 'saved' / f'{word}.html').write_text(HTML.format(word))
  with tarfile.open(tmp_path / 'pages.tar.gz', 'w:gz') as tar:
    tar.add(tmp_path / 'saved' / 'dates.html', 'dates.html')
  lines = [
    json.dumps({'content': f'Text {i} of a record.', 'link': f'http://c/{i}'}) for i in range(3)
  ]
  (tmp_path / 'named.jsonl').write_text('\n'.join(lines))
  odd = [
    '{"text": "good"}',
    '{"text": 3}',
    '{broken',
    '"text alone"',
    '[1]',
    '{"text": "\\ud800x"}',
  ]
  (tmp_path / 'odd.jsonl').write_text('\n'.join(odd))
  whole = gzip.compress(b'{"text": "before the damage"}\n' * 1000)
  (tmp_path / 'cut.jsonl.gz').write_bytes(whole[: len(whole) // 2])
  return tmp_path


def run(place: Path, steps=('extract',), **sources) -> list[dict]:
  clean.main(config(place, sources=sources, rules=dict(steps=steps)))
  return records(place / 'out', 'pages')


def test_crawls_saved_pages_and_archives_become_text(place):
  found = run(place, a=str(place / 'crawl'), b=str(place / 'saved'), c=str(place / 'pages.tar.gz'))
  urls = [record['url'] for record in found]
  assert urls[:3] == ['http://a/apples', 'http://a/pears', 'http://b/plums']
  assert sorted(urls[-3:]) == ['dates.html', 'dates.html', 'deep/limes.html']
  assert all('second one' in r['text'] and '<' not in r['text'] for r in found)
  told = json.loads((place / 'out' / 'clean.json').read_text())['sources']
  assert told['a']['records']['broken_compression'] == 1


def test_html_that_is_extracted_in_a_later_pass_is_not_lost(place):
  source = dict(a=str(place / 'crawl' / 'a.warc.gz'))
  later = run(place, ('same_url', 'extract'), **source)
  clean.main(config(place, 'at once', sources=source, rules=dict(steps=('extract', 'same_url'))))
  texts = [record['text'] for record in records(place / 'at once', 'pages')]
  assert [record['text'] for record in later] == texts and len(texts) == 2


def test_columns_have_the_names_that_a_source_gives_them(place):
  found = run(place, (), a=f'{place / "named.jsonl"}?text=content&url=link')
  assert [(r['text'], r['url']) for r in found] == [
    (f'Text {i} of a record.', f'http://c/{i}') for i in range(3)
  ]


def test_damage_is_counted_and_ends_nothing(place):
  found = run(place, (), a=str(place / 'odd.jsonl'), b=str(place / 'cut.jsonl.gz'))
  texts = Counter(record['text'] for record in found)
  assert texts['good'] == texts['?x'] == 1 and texts['before the damage'] > 100
  told = json.loads((place / 'out' / 'clean.json').read_text())['sources']
  assert told['a']['records'] == {'broken_line': 1, 'no_text': 2, 'pages': 3}
  assert told['b']['records']['broken_file'] == 1


def test_what_cannot_be_read_is_told_before_anything_is(place):
  for source, said in (
    ('nowhere/*.warc.gz', 'no file matches|no folder'),
    (str(place / 'empty'), 'no such file'),
    (str(place / 'named.jsonl?txt=content'), 'unknown option'),
  ):
    with pytest.raises(BadInput, match=said):
      clean.check(config(place, sources=dict(a=source), rules=dict(steps=())))
  with pytest.raises(BadInput, match='holds HTML, and no step makes text of it'):
    clean.check(config(place, sources=dict(a=str(place / 'saved')), rules=dict(steps=())))
  (place / 'empty').mkdir()
  with pytest.raises(BadInput, match='no file of a known kind'):
    crawl.units({'a': str(place / 'empty')})
  with pytest.raises(BadInput, match='cannot be part of a file name'):
    crawl.units({'../a': 'builtin'})


def test_the_next_stage_reads_the_folder_and_notices_damage(place):
  from llm_jax.data.sources import open_source

  found = run(place, a=str(place / 'crawl'))
  assert list(open_source(str(place / 'out'))) == [record['text'] for record in found]
  shard = next((place / 'out' / 'pages').glob('*.zst'))
  shard.write_bytes(shard.read_bytes()[:-1] + b'x')
  with pytest.raises(BadInput, match='damaged'):
    list(open_source(str(place / 'out')))


@pytest.mark.parametrize('preset', ['default', 'fineweb', 'fineweb2-zh', 'c4', 'gopher', 'dclm'])
def test_presets_run_from_html_to_text(place, preset):
  c = cleaning.get_config(preset)
  c.workdir = str(place / 'out')
  c.sources.web = str(place / 'crawl')
  c.workers = 1
  clean.main(c)
  told = json.loads((place / 'out' / 'clean.json').read_text())['sources']['web']
  assert told['kept'] + sum(told['dropped'].values()) == told['pages'] == 3
  assert 'extract.empty' not in told['dropped']


def test_a_preset_without_numbers_for_a_language_is_refused():
  for preset, said in (('fineweb2-sw', 'no limits'), ('fineweb2', 'fineweb2-zh'), ('x', 'fineweb')):
    with pytest.raises((BadInput, ValueError), match=said):
      cleaning.get_config(preset)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('chromium'), reason='no Chromium on this machine')
def test_a_browser_shows_the_report(place):
  """Every drawing is drawn, and what a page says is shown and not run."""
  texts = [f'<script>document.title = "run"</script> {"word " * n}' for n in range(30)]
  (place / 'odd.jsonl').write_text('\n'.join(json.dumps({'text': text}) for text in texts))
  rule = str(place / 'size.py')
  Path(rule).write_text(RULE)
  sources = dict(a=str(place / 'odd.jsonl'))
  clean.main(config(place, sources=sources, rules=dict(steps=(rule,), size=dict(low=20, high=30))))
  page = (place / 'out' / 'report.html').read_text()
  count = """<script>addEventListener('load', () => { document.title = JSON.stringify({
    was: document.title, images: [...document.images].map(i => i.naturalWidth > 100),
    folds: document.querySelectorAll('details').length});});</script>"""
  opened = place / 'opened.html'
  opened.write_text(page.replace('</body>', count + '</body>'))
  said = subprocess.run(
    [
      *('chromium', '--headless', '--no-sandbox', '--disable-gpu', '--virtual-time-budget=5000'),
      *(f'--user-data-dir={place / "profile"}', '--dump-dom', opened.as_uri()),
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  title = said.stdout.partition('<title>')[2].partition('</title>')[0].replace('&quot;', '"')
  seen = json.loads(title)
  assert seen['was'].endswith(': clean') and seen['folds'] >= 2
  assert len(seen['images']) == 2 and all(seen['images'])
