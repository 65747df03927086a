"""Texts with a class: read from files, one class each, at the end; or as text behind them."""

import json
import re

import numpy as np
import pytest

from llm_jax.data import labelled
from llm_jax.data.labelled import Labelled, Rows
from llm_jax.data.tasks import labelled as task
from llm_jax.text.tokenizer import Tokenizer
from llm_jax.types import BadInput

TEXTS = [f'{a} {b}' for a in ('good', 'bad', 'dull', 'fine') for b in ('film', 'play', 'book')]
CLASSES = ('bad', 'good')
PAIRS = [(text, CLASSES[text.split()[0] in ('good', 'fine')]) for text in TEXTS]


@pytest.fixture(scope='module')
def tokenizer():
  return Tokenizer.train([f'{text}: bad or good' for text in TEXTS] * 20, vocab_size=290)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Files of both splits, and one of all."""
  root = tmp_path_factory.mktemp('labelled')
  line = lambda pair: json.dumps({'review': pair[0], 'stars': pair[1]}) + '\n'
  for name, pairs in (('train', PAIRS[:8]), ('validation', PAIRS[8:]), ('all', PAIRS * 9)):
    (root / f'{name}.jsonl').write_text(''.join(map(line, pairs)))
  many = [line((f'{text} {i}', label)) for i in range(9) for text, label in PAIRS]
  (root / 'all.jsonl').write_text(''.join(many))
  return root


def make(tokenizer, path, **options):
  options = {'classes': CLASSES, 'length': 32, **options}
  variant = {'prompt': '{review}', 'label': 'stars'} | options.pop('variant', {})
  return labelled.make(tokenizer, task='labelled', path=str(path), variant=variant, **options)


def texts_of(rows, tokenizer):
  """(text, class, how many ids are trained on) of each segment."""
  found = []
  for row in rows:
    for segment in range(1, row['segment'].max() + 1):
      there = row['segment'] == segment
      trained = row['mask'][there] > 0
      gold = int(row['target'][there][-1]) if 'target' in row else None
      found.append((tokenizer.decode(row['tokens'][there]), gold, int(trained.sum())))
      assert trained[-1] and np.array_equal(row['position'][there], np.arange(there.sum()))
  return sorted(found)


@pytest.mark.parametrize('pack', [True, False])
@pytest.mark.parametrize(('split', 'pairs'), [('train', PAIRS[:8]), ('validation', PAIRS[8:])])
def test_each_text_is_there_once_and_its_class_is_at_its_end(tokenizer, folder, split, pairs, pack):
  rows = make(tokenizer, folder, split=split, pack=pack)
  found = texts_of(rows, tokenizer)
  assert found == sorted((text, CLASSES.index(name), 1) for text, name in pairs)
  assert (len(rows) == len(pairs)) == (not pack)
  row = rows[0]
  ends = row['mask'] > 0
  assert set(row['tokens'][ends]) == {tokenizer.eos_id} and not row['target'][~ends].any()


def test_by_text_the_name_of_the_class_is_what_is_learned(tokenizer, folder):
  rows = make(tokenizer, folder, form='text')
  assert 'target' not in rows[0]
  found = texts_of(rows, tokenizer)
  assert [text for text, _, _ in found] == sorted(f'{text} {name}' for text, name in PAIRS[:8])
  row = make(tokenizer, folder, form='text', pack=False)[0]
  said = row['tokens'][row['mask'] > 0]
  assert tokenizer.decode(said).strip() == PAIRS[0][1] and said[-1] == tokenizer.eos_id


def test_a_model_of_language_is_asked_with_the_ids_that_it_learned(tokenizer, folder):
  from llm_jax.data.tasks import files
  from llm_jax.evals.asking import Asker

  made = task.make(prompt='{review}', label='stars', classes=CLASSES)
  asked = Asker(tokenizer=tokenizer, task=made, room=32)(
    files.items('labelled', made, 'train', str(folder))
  )
  rows = make(tokenizer, folder, form='text', pack=False)
  for row, one, (_, name) in zip(rows, asked, PAIRS, strict=False):
    (request,) = one.requests
    ids = [*request.context, *request.texts[CLASSES.index(name)].ids, tokenizer.eos_id]
    assert row['tokens'][row['segment'] > 0].tolist() == ids


def test_a_single_file_is_divided_by_its_texts(tokenizer, folder):
  both = [
    {text for text, _, _ in texts_of(make(tokenizer, folder / 'all.jsonl', split=split), tokenizer)}
    for split in ('train', 'validation')
  ]
  assert len(both[0]) + len(both[1]) == 108 and not both[0] & both[1] and both[1]


def test_what_is_too_long_loses_its_beginning_and_is_counted(tokenizer, folder, capsys):
  rows = make(tokenizer, folder, length=3)
  assert '8 too long, whose beginning is cut (data.length=' in capsys.readouterr().out
  assert len(rows) == 8 and all(row['tokens'][-1] == tokenizer.eos_id for row in rows)
  rows = Rows.of([Labelled([5, 6, 7], 1, 3)], 3)  # nothing comes before a first token
  assert rows[0]['mask'].tolist() == [0, 1, 1]


def test_labels_are_names_or_numbers_and_the_columns_those_of_the_prompt(tokenizer, tmp_path):
  (tmp_path / 'train.tsv').write_text('a\tb\tlabel\nfilm\tplay\t1\nplay\t{b}\t0\n')
  rows = labelled.make(
    tokenizer, task='labelled', path=str(tmp_path), classes=CLASSES, length=32,
    variant={'prompt': '{a}\n{b}:'},
  )  # fmt: skip
  assert texts_of(rows, tokenizer) == [('film\nplay:', 1, 1), ('play\n{b}:', 0, 1)]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(variant={'label': 'none'}), "no question of labelled: no column 'none'"),
    (dict(classes=('x', 'y')), "label 'good' is none of ('x', 'y')"),
    (dict(variant={'prompt': 'review'}), "prompt 'review' names no column"),
    (dict(variant={'prompt': '{0}'}), "prompt '{0}' names no column"),
    (dict(variant={'prompt': '{'}), "prompt '{'"),
    (dict(classes=('good',)), "classes ('good',); give the names of two or more"),
    (dict(variant={'classes': ('good', 'bad', 'ugly')}), 'set config.data.classes="('),
    (dict(split='exam'), "labelled: no split 'exam'"),
  ],
)
def test_what_cannot_be_is_one_line(tokenizer, folder, options, message):
  with pytest.raises(BadInput, match=re.escape(message)) as error:
    make(tokenizer, folder, **options)
  assert '\n' not in str(error.value)


def test_the_questions_of_a_benchmark_are_labelled_texts_too(tokenizer, tmp_path):
  record = {'sentence1': 'It is a film.', 'sentence2': 'It is a play.', 'label': 'not_entailment'}
  (tmp_path / 'glue').mkdir()
  (tmp_path / 'glue' / 'rte_val.jsonl').write_text(json.dumps(record))
  rows = labelled.make(
    tokenizer, task='rte', path=str(tmp_path), classes=('False', 'True'), split='validation',
    length=99,
  )  # fmt: skip
  text = 'It is a film.\nQuestion: It is a play. True or False?\nAnswer:'
  assert texts_of(rows, tokenizer) == [(text, 0, 1)]


def test_a_format_string_reaches_no_further_than_columns():
  with pytest.raises(BadInput, match='names no column'):
    task.make(prompt='{review.__class__}')
