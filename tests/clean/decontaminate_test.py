"""Items of tests are found in training text wherever a slow search finds them, and reported."""

import gzip
import json
import random
import time
from pathlib import Path

import numpy as np
import pytest

from llm_jax.clean import decontaminate
from llm_jax.clean.decontaminate import pieces
from llm_jax.clean.item_ngrams import ItemNgrams, tokens_of
from llm_jax.clean.items import Item
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.types import BadInput

GOLDEN = json.loads(
  gzip.decompress((Path(__file__).parents[1] / 'fixtures' / 'web_decontam.json.gz').read_bytes())
)
ITEMS = [Item('golden', str(number), text) for number, text in enumerate(GOLDEN['items'])]
WORDS = ItemNgrams(ITEMS)
SIMPLIFIED = ItemNgrams(ITEMS, kind='simplified', n=12)


def page(text):
  return Page('http://a', text, str.split)


def run(step, pages, positions=None):
  """What becomes of pages that are signed in any order."""
  positions = positions or [*range(len(pages))]
  order = random.Random(0).sample(range(len(pages)), len(pages))
  signed = {positions[i]: step.sign(pages[i]) for i in order}
  found = json.loads(json.dumps(step.join(Signatures.of(signed), lambda positions: iter(()))))
  return [
    step.apply(one, found[str(position)]) if str(position) in found else one
    for position, one in zip(positions, pages)
  ]


@pytest.fixture
def items(tmp_path):
  """A folder with the golden items."""
  folder = tmp_path / 'tests'
  folder.mkdir()
  (folder / 'golden.txt').write_text('\n'.join(GOLDEN['items']))
  return folder


def test_golden_numbers_of_distinct_ngrams():
  sizes = {table.what: len(table.hashes) for table in WORDS._tables}
  assert sizes == {'n': GOLDEN['n_distinct_13grams'], 'share': GOLDEN['n_distinct_8grams']}


@pytest.mark.parametrize('case', GOLDEN['documents'], ids=lambda case: case['id'])
def test_golden(case):
  hits = WORDS.hits(case['text'])
  assert len(hits['n'][0]) == case['n_13gram_hits']
  assert len(hits['share'][0]) == case['n_8gram_hits']
  rows = WORDS.seen(np.concatenate([hits['n'][1], hits['share'][1]]))
  names = ('share8', 'frac8', 'any13')
  assert {
    row['id']: {name: pytest.approx(row[name], rel=1e-9) for name in names}
    for row in rows
    if row['share8'] or row['any13']
  } == case['items']
  grams = SIMPLIFIED.hits(case['text'])['n'][1].tolist()
  assert bool(grams) == case['datatrove_12gram']
  assert (SIMPLIFIED.text_of(grams[0]) if grams else None) == case['datatrove_first_ngram']
  assert pieces(case['text'], WORDS) == case['janitor_pieces']


def test_the_report_is_of_all_pages_together(items, tmp_path):
  report = tmp_path / 'seen.jsonl'
  step = decontaminate.make(items=str(items), shortest=None, report=str(report))
  fates = run(step, [page(case['text']) for case in GOLDEN['documents']])
  for fate, case in zip(fates, GOLDEN['documents']):
    assert isinstance(fate, Drop) == (case['n_13gram_hits'] > 0)
  rows = [json.loads(line) for line in report.read_text().splitlines()]
  assert [row['id'] for row in rows] == [str(i + 1) for i in range(len(ITEMS))]
  for number, row in enumerate(rows):
    parts = [case['items'].get(str(number)) for case in GOLDEN['documents']]
    parts = [part for part in parts if part]
    assert row['share8'] >= max((part['share8'] for part in parts), default=0) - 1e-9
    assert row['any13'] == any(part['any13'] for part in parts)
    assert ('gpt3' in row['contaminated']) == row['any13']
    assert ('llama3' in row['contaminated']) == (row['share8'] >= 0.7)
    assert ('palm' in row['contaminated']) == (row['frac8'] >= 0.7)


def _naive(text, items, n, *, whole):
  """(at, n-gram, what) of every n-gram of an item in a text, by comparing all with all."""
  words, found = tokens_of(text), set()
  for item in items:
    theirs = tokens_of(item.text)
    sizes = [('n', n, True), ('share', 3, True), ('whole', len(theirs), whole <= len(theirs) < n)]
    for what, size, wanted in sizes:
      grams = {tuple(theirs[i : i + size]) for i in range(len(theirs) - size + 1)} if wanted else ()
      for at in range(len(words) - size + 1):
        if tuple(words[at : at + size]) in grams:
          found.add((at, ' '.join(words[at : at + size]), what))
  return found


def test_any_text_against_a_slow_search():
  rng, count = random.Random(0), 0
  for _ in range(300):
    some = lambda most: ' '.join(rng.choices(['a', 'b', 'c', 'd', '-', 'E'], k=rng.randrange(most)))
    items = [Item('t', str(i), some(9)) for i in range(4)]
    n = rng.choice((1, 3, 4, 5))
    grams, text = ItemNgrams(items, n=n, share_n=3, whole=2), some(30)
    hits = grams.hits(text)
    found = {
      (at, grams.text_of(gram), what)
      for what, pair in hits.items()
      for at, gram in zip(*(numbers.tolist() for numbers in pair))
    }
    assert found == _naive(text, items, n, whole=2)
    count += len(found)
  assert count > 1000


@pytest.mark.parametrize('length', range(3, 16))
def test_short_items_are_found_as_a_whole(length, tmp_path):
  words = [f'w{i}' for i in range(length)]
  (tmp_path / 'quiz.txt').write_text(' '.join(words))
  step = decontaminate.make(items=str(tmp_path / 'quiz.txt'), shortest=5)
  [whole, part] = run(step, [page(f'so {" ".join(words)} it is'), page(' '.join(words[1:]))])
  assert isinstance(whole, Drop) == (length >= 5)
  assert isinstance(part, Drop) == (length > 13)
  if length >= 5:
    assert whole.values['task'] == 'quiz' and whole.values['item'] == '1'
    assert whole.values['ngram'] == ' '.join(words[:13])
    assert whole.values['ngrams'] == max(1, length - 12)


@pytest.mark.parametrize('hits', [10, 11])
def test_the_eleventh_hit_loses_the_text(hits, tmp_path):
  words = [f'w{i}' for i in range(13 + hits - 1)]
  (tmp_path / 'quiz.txt').write_text(' '.join(words))
  step = decontaminate.make(items=str(tmp_path / 'quiz.txt'), mode='cut')
  [left] = run(step, [page(f'{"x " * 300}{" ".join(words)}{" y" * 300}')])
  if hits == 11:
    assert left == Drop('contaminated', left.values) and left.values['ngrams'] == 11
  else:
    first, last = left.text.split('\n\n')
    assert set(first.split()) == {'x'} and set(last.split()) == {'y'}
    assert len(first) == 400 and left.meta['contaminated']['item'] == '1'


@pytest.mark.parametrize('length', [400, 401, 402])
def test_pieces_of_200_characters_are_lost(length):
  item = ' '.join(f'w{i}' for i in range(13))
  grams = ItemNgrams([Item('t', '1', item)])
  assert [len(p) for p in pieces('x' * (length - 1) + f' {item}', grams)] == (
    [length - 200] if length > 400 else []
  )
  assert pieces('', grams) == pieces('x' * 199, grams) == []
  assert pieces('x' * 200, grams) == ['x' * 200]


def test_a_clean_page_is_itself_however_short(items):
  for mode in ('drop', 'cut', 'mark'):
    pages = [page('short'), page(''), page('\ud800\0')]
    assert run(decontaminate.make(items=str(items), mode=mode), pages, [3, 5, 9]) == pages


def test_marked_pages_keep_their_text(items):
  text = f'and {GOLDEN["items"][1]}'
  [marked] = run(decontaminate.make(items=str(items), mode='mark'), [page(text)])
  assert marked.text == text
  assert marked.meta['contaminated']['task'] == 'golden'
  assert marked.meta['contaminated']['item'] == '2'


def test_changed_figures_and_chinese(items):
  [changed] = [case['text'] for case in GOLDEN['documents'] if case['id'] == 'numbers_changed']
  zh = f'题目：{GOLDEN["items"][11]}'
  outcome = lambda **how: [
    isinstance(fate, Drop)
    for fate in run(decontaminate.make(items=str(items), **how), [page(changed), page(zh)])
  ]
  assert outcome(n=13) == [False, False]
  assert outcome(n=13, zero_numbers=True) == [True, False]
  assert outcome(n=13, tokens='characters') == [True, True]
  assert outcome(n=20, tokens='characters', fields=()) == [True, True]


def test_items_of_records(tmp_path):
  rows = [
    {'id': 7, 'task': 'quiz', 'question': 'a b c', 'choices': ['d e', {'x': 'f'}], 'answer': 'g'},
    {'question': 'h i j k l m'},
  ]
  (tmp_path / 'deep').mkdir()
  text = '\n'.join(map(json.dumps, rows))
  (tmp_path / 'deep' / 'mine.jsonl.gz').write_bytes(gzip.compress(text.encode()))
  (tmp_path / 'notes.md').write_text('no items')
  step = decontaminate.make(items=str(tmp_path), shortest=5)
  [first, second, no] = run(step, [page('a b c d e f g'), page('h i j k l m'), page('a b c d e')])
  assert (first.values['task'], first.values['item']) == ('quiz', '7')
  assert (second.values['task'], second.values['item']) == ('mine', '2')
  assert isinstance(no, Page)
  step = decontaminate.make(items=str(tmp_path), shortest=2, fields=('question',))
  assert [isinstance(fate, Drop) for fate in run(step, [page('a b c'), page('d e')])] == [
    True,
    False,
  ]


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('a.jsonl', '{"a": "b"}\n{', 'line 2, is no JSON'),
    ('a.jsonl', '[' * 100_000, 'is no JSON'),
    ('a.jsonl', '[1]', 'is no JSON object'),
    ('a.jsonl', '{"a": 1}', 'has no text in any field; its fields: a'),
    ('a.jsonl', '', 'holds no item'),
    ('a.txt.gz', 'plain', 'cannot be read'),
  ],
)
def test_damaged_items(tmp_path, name, text, message):
  (tmp_path / name).write_text(text)
  for place in (tmp_path, tmp_path / name):
    with pytest.raises(BadInput, match=rf'\Aclean\.decontaminate\.items: [^\n]*{message}'):
      decontaminate.make(items=str(place))


def test_only_words_can_be_cut(items):
  with pytest.raises(BadInput, match=r"\Aclean\.decontaminate: mode 'cut' needs tokens 'words'"):
    decontaminate.make(items=str(items), mode='cut', tokens='characters')


def test_odd_and_long_texts(items, tmp_path):
  odd = [Item('t', '1', text) for text in ('', ' ', '\ud800 a b c d e', '...', 'x ' * 3000)]
  grams = ItemNgrams(odd, whole=1)
  step = decontaminate.make(items=str(items))
  began = time.process_time()
  for piece in ('x ', 'x', '\ud800 ', '\0', '. ', 'for a new years ', '中', '1,'):
    text = piece * (300_000 // len(piece))
    grams.hits(text)
    step.sign(page(text))
    pieces(text, WORDS)
  assert time.process_time() - began < 8
