"""Signatures, clusters and survivors are FineWeb's, and follow from texts and positions alone.

tests/fixtures/near_duplicates.json.xz: what datatrove 0.10.1 makes of invented texts and of 235
files of well-known licences, with SHA-1, 14 bands of 8 rows and shingles of 5 words; and exact
similarities.
"""

import functools
import json
import lzma
import random
from pathlib import Path

import numpy as np
import pytest

from llm_jax.clean import minhash, overlap
from llm_jax.clean.clusters import merged
from llm_jax.clean.page import Drop, Page, Signatures
from llm_jax.types import BadInput

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'near_duplicates.json.xz'
MADE = json.loads(lzma.decompress(FIXTURE.read_bytes()))
DATATROVE = minhash.make(hash='sha1', jaccard=0)
WORDS = [a + b + c for a in 'bdfgklmnprstvz' for b in 'aeiou' for c in 'bdklmnrst']


def _page(text, split=str.split, **meta):
  return Page('', text, split, meta=meta)


@functools.cache
def _sign(step, text):
  return step.sign(_page(text))


def _found(step, texts, signer=None):
  """What is found of texts at positions; the pages are read in one ascending pass at most."""
  passes = []

  def read(positions):
    passes.append([*positions])
    assert len(passes) == 1 and passes[0] == sorted(set(passes[0]))
    return (_page(texts[position]) for position in positions)

  signed = {position: _sign(signer or step, text) for position, text in texts.items()}
  return step.join(Signatures.of(signed), read)


def _clusters(found):
  """The clusters as sorted lists of positions, after a look at what is said of each page."""
  clusters = {}
  for position, said in found.items():
    clusters.setdefault(said['cluster'], []).append(position)
    assert said['kept'] == (position == said['cluster'])
    assert json.loads(json.dumps(said)) == said
  for first, members in clusters.items():
    assert members == sorted(members) and first == members[0] and len(members) > 1
    assert {found[position]['size'] for position in members} == {len(members)}
  return sorted(clusters.values())


def _components(step, texts):
  """The components of pages that share a band and are similar enough, every pair looked at."""
  sets = {at: {*np.concatenate([*step.shingles(_page(text))])} for at, text in texts.items()}
  positions = sorted(texts)
  root = np.arange(len(positions))
  for i, a in enumerate(positions):
    for j, b in enumerate(positions[:i]):
      shared = _sign(step, texts[a])[0, :-1] == _sign(step, texts[b])[0, :-1]
      both = len(sets[a] & sets[b])
      if shared.any() and both / (len(sets[a]) + len(sets[b]) - both) >= step.jaccard:
        root = merged(root, np.array([i]), np.array([j]))
  groups = [[positions[i] for i in np.flatnonzero(root == r)] for r in np.unique(root)]
  return sorted(group for group in groups if len(group) > 1)


def _varied(draw, count, length=60):
  """Texts that are more and less like one another, in a few families with chains in them."""
  texts = []
  for _ in range(count):
    words = list(draw.choice(texts)) if texts and draw.random() < 0.8 else []
    words = words or draw.choices(WORDS, k=length)
    for _ in range(draw.choice([0, 1, 1, 2, 4])):
      words[draw.randrange(length)] = draw.choice(WORDS)
    texts.append(words)
  return [' '.join(words) for words in texts]


def test_functions_words_shingles_and_signatures_are_datatroves():
  a_P, c_P = minhash.coefficients(112)
  assert a_P.tolist() == MADE['a'] and c_P.tolist() == MADE['c']
  for row in MADE['signatures']:
    page = _page(row['text'])
    assert minhash.simplified(row['text']) == row['simplified']
    assert [int(x) for block in DATATROVE.shingles(page) for x in block] == row['hashes']
    signature = DATATROVE.signature(page)
    assert (signature if signature is None else signature.tolist()) == row['signature']


def test_pairs_have_as_many_equal_bands_and_hashes_as_in_datatrove():
  for pair in MADE['pairs']:
    a, b = (DATATROVE.signature(_page(pair[side])) for side in 'ab')
    assert (a == b).sum() == pair['hashes_equal']
    a, b = (_sign(DATATROVE, pair[side])[0, :-1] for side in 'ab')
    assert (a == b).sum() == pair['bands_equal']


def test_similarities_are_exact():
  place = {row['id']: at for at, row in enumerate(MADE['documents'])}
  with overlap.Sets(np.arange(len(place))) as sets:
    for row in MADE['documents']:
      sets.add(DATATROVE.shingles(_page(row['text'])))
    a, b, want = zip(*MADE['jaccard'])
    a, b = (np.array([place[name] for name in names]) for names in (a, b))
    found = sets.jaccard(a, b)
    np.testing.assert_allclose(found, want, atol=6e-7)  # 6 digits are given
    assert (sets.jaccard(b, a, 0.6) >= 0.6).tolist() == (found >= 0.6).tolist()
  with overlap.Sets(np.arange(2 * len(MADE['pairs']))) as sets:
    for text in (pair[side] for pair in MADE['pairs'] for side in 'ab'):
      sets.add(DATATROVE.shingles(_page(text)))
    a = np.arange(0, 2 * len(MADE['pairs']), 2)
    want = [pair['jaccard'] for pair in MADE['pairs']]
    np.testing.assert_allclose(sets.jaccard(a, a + 1), want, rtol=1e-9)


def _names(clusters, rows):
  return sorted(sorted(rows[at]['id'] for at in cluster) for cluster in clusters)


def test_clusters_are_datatroves():
  for rows, want in (('documents', 'clusters'), ('licences', 'licence_clusters')):
    texts = {at: row['text'] for at, row in enumerate(MADE[rows])}
    clusters = _clusters(_found(DATATROVE, texts))
    assert _names(clusters, MADE[rows]) == sorted(sorted(names) for names in MADE[want])
  assert len(texts) - sum(len(cluster) - 1 for cluster in clusters) == 12


def test_what_verification_changes():
  # Of the invented texts nothing, as what shares a band there is alike or is joined by what is; of
  # the licences two files, which are like no other in 7 of 10 shingles.
  step = minhash.make(hash='sha1')
  texts = {at: row['text'] for at, row in enumerate(MADE['documents'])}
  clusters = _clusters(_found(step, texts, DATATROVE))
  assert _names(clusters, MADE['documents']) == sorted(map(sorted, MADE['clusters']))
  texts = {at: row['text'] for at, row in enumerate(MADE['licences'])}
  before, after = (_clusters(_found(which, texts, DATATROVE)) for which in (DATATROVE, step))
  assert sorted(map(len, before)) == [5, 6, 35, 87, 95]
  assert sorted(map(len, after)) == [4, 6, 35, 86, 95]
  assert all(any({*small} <= {*large} for large in before) for small in after)


@pytest.mark.parametrize('jaccard', [0.01, 0.7, 0.85])
def test_clusters_are_the_components_of_similar_pages_that_share_a_band(jaccard):
  draw = random.Random(int(100 * jaccard))
  step = minhash.make(jaccard=jaccard, bands=20, rows=3)
  texts = dict(zip(draw.sample(range(10**6), 60), _varied(draw, 60)))
  assert _clusters(_found(step, texts)) == _components(step, texts)


@pytest.mark.parametrize('jaccard', [0, 0.7])
def test_nothing_depends_on_who_signs_or_on_the_order_of_bands_and_pages(jaccard):
  draw = random.Random(3)
  step = minhash.make(jaccard=jaccard)
  texts = _varied(draw, 50)
  first = _clusters(_found(step, dict(enumerate(texts))))
  assert first
  # Other positions, with gaps, in another order: the same clusters, whose first page stays.
  moved = dict(zip(range(50), draw.sample(range(10**12), 50)))
  found = _found(step, {moved[at]: texts[at] for at in draw.sample(range(50), 50)})
  assert _clusters(found) == sorted(sorted(moved[at] for at in cluster) for cluster in first)
  # Bands in any order.
  order = draw.sample(range(14), 14)
  signed = {at: _sign(step, text)[:, [*order, 14]] for at, text in enumerate(texts)}
  found = step.join(Signatures.of(signed), lambda ps: (_page(texts[p]) for p in ps))
  assert _clusters(found) == first


def test_as_many_are_found_as_theory_says():
  draw = np.random.default_rng(5)
  coefficients = minhash.coefficients(112)
  for shared in (34, 40, 45, 49, 53, 57):  # of 60 shingles each
    similarity, found, pairs = shared / (120 - shared), 0, 400
    for _ in range(pairs):
      hash_N = draw.integers(0, 2**64, 120 - shared, np.uint64)
      a, b = (minhash.minima(part, *coefficients) for part in (hash_N[:60], hash_N[-60:]))
      found += (a == b).reshape(14, 8).all(1).any()
    expected = 1 - (1 - similarity**8) ** 14
    deviation = (expected * (1 - expected) / pairs) ** 0.5
    assert abs(found / pairs - expected) < 3 * deviation + 1e-9, (similarity, found)


def test_a_chain_is_one_cluster_whose_ends_differ():
  draw = random.Random(0)
  words = draw.choices(WORDS, k=100)
  chain = []
  for at in range(0, 100, 4):
    words[at] = words[at].upper() + 'x'
    chain.append(' '.join(words))
  for step in (minhash.make(), minhash.make(jaccard=0)):
    assert _clusters(_found(step, dict(enumerate(chain)))) == [[*range(25)]]
    assert _clusters(_found(step, {0: chain[0], 1: chain[-1]})) == []


def test_texts_shorter_than_a_shingle_are_never_duplicates():
  texts = dict(enumerate(['', '!!!', ' ', 'a b c d', 'a b c d', 'A, b. c - d', 'one two'] * 3))
  for step in (minhash.make(), minhash.make(jaccard=0)):
    assert dict(_found(step, texts)) == {}
    assert _sign(step, 'a b c d').shape == (0, 15)
    assert dict(step.join(Signatures.of({}), iter)) == {}
  assert _clusters(_found(minhash.make(shingle=2), {5: 'a b', 3: 'a, b!'})) == [[3, 5]]


def test_the_page_that_stays_tells_how_many_it_stands_for():
  step = minhash.make()
  texts = {4: 'a b c d e f', 9: 'A B C D E F.', 11: 'other words of another page here'}
  signed = {at: step.sign(_page(text, cluster_size=at)) for at, text in texts.items()}
  found = step.join(Signatures.of(signed), lambda ps: (_page(texts[p]) for p in ps))
  assert dict(found) == {
    4: {'cluster': 4, 'size': 13, 'kept': True},
    9: {'cluster': 4, 'size': 13, 'kept': False},
  }
  page = step.apply(_page(texts[4], id='x'), found[4])
  assert page.meta == {'id': 'x', 'cluster': 4, 'cluster_size': 13} and page.text == texts[4]
  assert step.apply(_page(texts[9]), found[9]) == Drop(
    'duplicate', {'cluster': 4, 'cluster_size': 13}
  )
  for odd in ('three', -1, 2**70, None, 1.5):  # a source may have written anything there
    assert step.sign(_page(texts[4], cluster_size=odd))[0, -1] == 1


def test_minima_are_those_of_exact_integers():
  draw = random.Random(0)
  prime = 2**61 - 1
  a = [draw.randrange(1, prime) | 1 for _ in range(33)]
  c = [draw.randrange(prime) for _ in range(33)]
  hashes = [draw.randrange(2**64) for _ in range(20)]
  # Products at which the sum of high and low bits is the prime or above.
  for product in (prime, 2 * prime, 2**64 - 1, 2**64 - 2**61, 2**61, 0, 8 * prime, 7 * prime + 6):
    hashes.append((product - c[0]) * pow(a[0], -1, 2**64) % 2**64)
  for some in (hashes, hashes[-1:], *([h] for h in hashes[20:])):
    want = [min((h * x + y) % 2**64 % prime for h in some) for x, y in zip(a, c)]
    got = minhash.minima(*(np.array(x, np.uint64) for x in (some, a, c)))
    assert got.tolist() == want


@pytest.mark.parametrize('count', [4, 5, 6, 1023, 1027, 1028, 1029, 2500])
def test_long_texts_are_shingled_in_blocks_without_a_seam(count):
  draw = random.Random(count)
  words = draw.choices([*WORDS, 'x' * 40, 'ß', '语言', 'e\ud800'], k=count)
  text = '\u0301 '.join(words)
  for step in (DATATROVE, minhash.make(words='page', hash='sha1')):
    got = np.concatenate([*step.shingles(_page(text)), np.zeros(0, np.uint64)])
    words = minhash.simplified(text).split()
    data = [' '.join(words[i : i + 5]).encode('utf-8', 'surrogatepass') for i in range(count - 4)]
    want = [minhash.HASHES['sha1'](x, np.array([0]), np.array([len(x)]))[0] for x in data]
    assert got.tolist() == want


def test_languages_without_spaces_take_the_words_of_the_page():
  text = '今天天气很好我们去公园散步看见许多花开了'
  near = text[:-1] + '啦'
  step = minhash.make(words='page', jaccard=0.5, bands=40, rows=2)
  pages = {at: _page(t, list) for at, t in enumerate((text, near))}
  signed = {at: step.sign(page) for at, page in pages.items()}
  found = step.join(Signatures.of(signed), lambda ps: (pages[p] for p in ps))
  assert _clusters(found) == [[0, 1]]
  assert not _clusters(_found(minhash.make(), {0: text, 1: text}))


def test_pages_that_share_a_band_and_nothing_else_take_linear_time():
  count, compared = 5000, []

  def similar(a, b):
    compared.append(len(a))
    return np.zeros(len(a), bool)

  root = overlap.connected(np.arange(count), np.arange(count), np.array([0, count]), similar)
  assert (root == np.arange(count)).all() and sum(compared) <= overlap.CENTRES * count
  # Where most are alike, hardly more than one comparison a page is made.
  compared.clear()
  alike = lambda a, b: compared.append(len(a)) or ((a < 4990) & (b < 4990))
  root = overlap.connected(np.arange(count), np.arange(count), np.array([0, count]), alike)
  assert (root[:4990] == 0).all() and sum(compared) < 2 * count + overlap.CENTRES * 20


def test_options_are_held_against_their_ranges():
  for options in ({'bands': 0}, {'rows': 2.5}, {'jaccard': 1.1}, {'hash': 'md5'}, {'shingle': 0}):
    with pytest.raises(BadInput, match=f'^clean.minhash: {next(iter(options))} '):
      minhash.make(**options)
