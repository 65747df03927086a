"""138 documents with every number that FineWeb's filters take of them, and what the filters say.

The verdicts are datatrove 0.10.1's own, on spaCy's words. The statistics come from a program that
agrees with all of them, for two splitters of ours besides.
"""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from llm_jax.clean import c4, fineweb, gopher, repetition
from llm_jax.clean.page import Drop, Page, follow
from llm_jax.clean.words import splitter

FIXTURE = Path(__file__).parents[1] / 'fixtures/web_filters.json.gz'
GOLDEN = json.loads(gzip.decompress(FIXTURE.read_bytes()))
DOCUMENTS = GOLDEN['documents']
RULES = {
  'repetition': repetition.make(),
  'gopher': gopher.make(),
  'fineweb': fineweb.make(),
  'c4': c4.make(**c4.PRESETS['paper']),
  'c4_no_terminal_rule': c4.make(),
}
simple = splitter('simple')

# Where spaCy finds so few sentences that the page is dropped, and we find enough: an abbreviation
# ('Mrs. Sarah') and four dots in the middle of a line.
SENTENCES_DIFFER = {
  ('c4_demo/32', 'c4'),
  ('c4_demo/32', 'c4_no_terminal_rule'),
  ('ellipsis_four_dots', 'c4_no_terminal_rule'),
}


def page_of(document):
  """The page with the words that it was measured with; other texts have simple words."""
  words = document['words'].split('\n') if document['words'] else []
  text = document['text']
  return Page('', text, lambda given: words if given == text else simple(given))


def same(value, expected):
  if expected is None:
    return value is None
  return value == pytest.approx(expected, rel=1e-9, abs=0)


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda document: document['id'])
def test_every_number_and_verdict(document):
  page = page_of(document)
  for name, rule in RULES.items():
    after, values = rule.measure(page)
    for key, expected in (document['stats'].get(name) or {}).items():
      assert same(values.get(key), expected), f'{name}.{key}: {values.get(key)}, not {expected}'
    reason = rule.judge(values)
    if name in document['c4']:
      lines = {key: values[key] for key in c4.LINE_RULES if values[key]}
      assert lines == document['c4'][name]['lines']
    if (document['id'], name) in SENTENCES_DIFFER:
      assert (reason, document['verdict'][name]) == (None, 'too_few_sentences')
      continue
    assert reason == document['verdict'][name]
    if name in document['c4_kept_sha1']:
      kept = None if reason else hashlib.sha1(after.text.encode()).hexdigest()
      assert kept == document['c4_kept_sha1'][name]


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda document: document['id'])
def test_the_order_of_fineweb(document):
  steps = [('c4', RULES['c4_no_terminal_rule']), ('fineweb', RULES['fineweb'])]
  first = [(name, RULES[name]) for name in ('repetition', 'gopher')]
  fate = follow([*first, *steps], page_of(document))
  assert ([fate.step, fate.reason] if fate.step else None) == document['pipeline_drops']


@pytest.mark.parametrize('name', ['whitespace', 'simple'])
def test_other_words(name):
  for document in DOCUMENTS:
    expected = document['other_splitters'][name]
    page, values = Page('', document['text'], splitter(name)), {}
    for rule, reason in expected['verdict'].items():
      found = RULES[rule].measure(page)[1]
      assert RULES[rule].judge(found) == reason, (document['id'], rule)
      values |= found
    for key, number in expected.items():
      assert key == 'verdict' or same(values.get(key), number), (document['id'], key)


def test_sentences_are_spacys_on_most_pages():
  pairs = [
    (RULES[name].measure(page_of(document))[1]['sentences'], counted['sentences'])
    for document in DOCUMENTS
    for name, counted in document['c4'].items()
  ]
  differ = [abs(ours - theirs) for ours, theirs in pairs if ours != theirs]
  assert len(pairs) == 276 and len(differ) == 29 and sorted(differ)[-2:] == [3, 12]


def test_words_that_occur_in_a_repeated_n_gram():
  # DCLM takes no marks for words, and these numbers do. So each mark becomes a letter of its own.
  rule = repetition.make(reading='dclm')
  for document in DOCUMENTS:
    words = document['words'].split('\n') if document['words'] else []
    marks = {word: at for at, word in enumerate(dict.fromkeys(words)) if not word[0].isalnum()}
    renamed = [chr(0x4E00 + marks[w]) + w[1:] if w in marks else w for w in words]
    values = rule.measure(Page('', document['text'], lambda _, words=renamed: words))[1]
    for key, expected in document['stats']['marked'].items():
      assert same(values[key], expected), (document['id'], key)


@pytest.mark.parametrize('case', GOLDEN['by_rule'], ids=lambda case: str(case['n_words']))
def test_a_hundred_thousand_words(case):
  page = Page('', case['unit'] * case['times'] + case['tail'], simple)
  found = RULES['gopher'](page)
  assert len(page.words) == case['n_words']
  assert (found.reason if isinstance(found, Drop) else None) == case['gopher']
