"""The classifier keeps the share it is asked for, of the pages that are like the trusted texts."""

import json
import random
import time

import numpy as np
import pytest

from llm_jax.clean import quality
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.clean.quality_model import auc, features, load, train
from llm_jax.types import BadInput

GOOD = 'the theorem proves every number has a prime factor so we show it now'
BAD = 'click here buy cheap best price sale free order win bonus casino deal'


def text(rng, words):
  return ' '.join(rng.choices(words.split(), k=rng.randrange(20, 60)))


def page(text):
  return Page('', text, str.split)


def mixed(rng, good, bad):
  """Pages, of which the first `good` are of good words."""
  return [page(text(rng, GOOD)) for _ in range(good)] + [page(text(rng, BAD)) for _ in range(bad)]


def run(step, pages, positions=None):
  positions = positions or [*range(len(pages))]
  order = random.Random(0).sample(range(len(pages)), len(pages))
  signed = {positions[i]: step.sign(pages[i]) for i in order}
  found = json.loads(json.dumps(step.join(Signatures.of(signed), lambda positions: iter(()))))
  return [step.apply(one, found[str(position)]) for position, one in zip(positions, pages)]


@pytest.mark.parametrize('keep', [0.05, 0.2, 0.5, 1.0])
def test_the_share_that_is_kept(keep):
  rng = random.Random(0)
  trusted, pages = [text(rng, GOOD) for _ in range(50)], mixed(rng, 20, 80)
  fates = run(quality.make(texts=trusted, keep=keep, bits=12), pages)
  kept = [i for i, fate in enumerate(fates) if isinstance(fate, Page)]
  assert len(kept) == round(keep * 100)
  assert set(kept) <= set(range(20)) or set(range(20)) <= set(kept)
  for one, fate in zip(pages, fates):
    if isinstance(fate, Page):
      assert fate.text == one.text and 0 <= fate.meta['quality'] <= 1
    else:
      assert fate.reason == 'low_quality' and fate.values['score'] < fate.values['low']


def test_a_saved_model_gives_the_same_verdicts_and_says_what_was_measured(tmp_path):
  rng = random.Random(1)
  trusted, pages = [text(rng, GOOD) for _ in range(50)], mixed(rng, 30, 70)
  path = tmp_path / 'model.npz'
  fates = run(quality.make(texts=lambda: iter(trusted), keep=0.25, save=str(path)), pages)
  rule = quality.make(model=str(path))
  again = [rule(one) for one in pages]
  assert [isinstance(fate, Drop) for fate in again] == [isinstance(fate, Drop) for fate in fates]
  measured = load(path, '').measured
  assert measured['positives'] == 50 and measured['negatives'] == 50
  assert 0.5 < measured['auc'] <= 1 and 0.5 <= measured['agreement'] <= 1
  everything = quality.make(model=str(path), low=0.0)
  assert all(isinstance(everything(one), Page) for one in pages)
  _, values = rule.measure(pages[0])
  assert 0 <= values['score'] <= 1


def test_the_result_depends_on_the_pages_alone():
  rng = random.Random(2)
  trusted, pages = [text(rng, GOOD) for _ in range(20)], mixed(rng, 20, 20)
  wanted = run(quality.make(texts=trusted, keep=0.5, bits=12), pages)
  shuffled = rng.sample(trusted, len(trusted))
  places = [i * 3 for i in range(len(pages))]
  assert run(quality.make(texts=shuffled, keep=0.5, bits=12), pages, places) == wanted


def test_training_finds_the_minimum():
  rng = np.random.default_rng(0)
  rows = [np.unique(rng.integers(0, 256, 6)).astype(np.int32) for _ in range(60)]
  weights, bias, _ = train(rows[:20], rows[20:], bits=8, l2=0.1, holdout=0)
  x = np.zeros((60, 257))
  for i, row in enumerate(rows):
    x[i, row] = len(row) ** -0.5
  x[:, 256] = 1
  y, share = np.arange(60) < 20, np.where(np.arange(60) < 20, 1 / 40, 1 / 80)
  slope = share * (1 / (1 + np.exp(-(x @ [*weights, bias]))) - y)
  gradient = x.T @ slope + 0.1 * np.array([*weights, 0])
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_auc_counts_pairs():
  rng = np.random.default_rng(0)
  for _ in range(50):
    good, bad = rng.integers(0, 5, rng.integers(1, 9)), rng.integers(0, 5, rng.integers(1, 9))
    pairs = [(g > b) + (g == b) / 2 for g in good for b in bad]
    assert auc(good, bad) == pytest.approx(np.mean(pairs))


def test_few_and_odd_texts():
  assert run(quality.make(texts=['a b']), []) == []
  assert len(run(quality.make(texts=['a b'], bits=8), [page(''), page('\ud800\0')])) == 2
  assert len(run(quality.make(texts=['a'], bits=8, holdout=0.4), [page('x')])) == 1
  began = time.process_time()
  for piece in ('a', 'a ', '\0', '中', '\ud800', ' ', '_', '\n'):
    assert len(features(piece * 1_000_000, 128, 18)) <= 255
  assert time.process_time() - began < 1
  with pytest.raises(BadInput, match='texts has no text'):
    run(quality.make(texts=['', ' ']), [page('a')])


@pytest.mark.parametrize('where', ['pages', 'texts'])
def test_one_side_without_words(where):
  texts, pages = (['a b'], [page(''), page(' ')]) if where == 'pages' else (['a'], [page('a')])
  assert all(isinstance(fate, Page | Drop) for fate in run(quality.make(texts=texts), pages))


@pytest.mark.parametrize(
  ('given', 'message'),
  [
    ({}, 'give texts to train on, or the model'),
    ({'texts': ['a'], 'model': 'm'}, 'give texts to train on, or the model'),
    ({'texts': 'good/*.jsonl'}, 'is a name'),
    ({'texts': ['a'], 'low': 0.5}, 'low belongs to a model'),
    ({'model': 'm', 'save': 'n'}, 'save is of no use'),
    ({'texts': ['a'], 'keep': 0}, 'keep 0'),
    ({'model': 'nowhere.npz'}, 'is no quality model'),
  ],
)
def test_wrong_options(given, message):
  with pytest.raises(BadInput, match=rf'\Aclean\.quality(\.model)?: [^\n]*{message}'):
    quality.make(**given)


def test_a_damaged_model(tmp_path):
  rng, path = random.Random(3), tmp_path / 'model.npz'
  run(quality.make(texts=[text(rng, GOOD)], save=str(path)), mixed(rng, 1, 1))
  whole = path.read_bytes()
  for data in (b'', b'PK', whole[:-30], whole[:60], b'\x93NUMPY', b'text'):
    path.write_bytes(data)
    with pytest.raises(BadInput, match='is no quality model'):
      quality.make(model=str(path))
