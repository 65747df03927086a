"""Components of graphs, against a search through each."""

import itertools
import random

import numpy as np

from llm_jax.clean.clusters import Clusters, alike, merged


def _searched(count, edges):
  root = [*range(count)]
  for _ in range(count):
    for a, b in edges:
      root[a] = root[b] = min(root[a], root[b])
  return root


def test_components_of_any_graph_whatever_the_order_of_its_edges():
  draw = random.Random(0)
  for _ in range(100):
    count = draw.randrange(1, 30)
    edges = [(draw.randrange(count), draw.randrange(count)) for _ in range(draw.randrange(30))]
    want = _searched(count, edges)
    ends = np.array(edges, int).reshape(-1, 2)
    assert merged(np.arange(count), *ends.T).tolist() == want
    cut = draw.randrange(len(edges) + 1)
    draw.shuffle(edges)
    ends = np.array(edges, int).reshape(-1, 2)
    assert merged(merged(np.arange(count), *ends[:cut].T), *ends[cut:].T).tolist() == want


def test_a_long_path_is_one_component():
  order = np.random.default_rng(0).permutation(100_000)
  assert not merged(np.arange(100_000), order[1:], order[:-1]).any()


def test_groups_of_equal_keys():
  draw = random.Random(1)
  for width in (None, 1, 2):
    for _ in range(50):
      keys = [draw.randrange(8) for _ in range(draw.randrange(20))]
      array = np.array(keys, np.uint64)
      if width:
        array = np.stack([array // 2, array % 2], 1) if width == 2 else array[:, None]
      member, starts = alike(array)
      groups = [member[a:b].tolist() for a, b in itertools.pairwise(starts)]
      want = [[i for i, k in enumerate(keys) if k == key] for key in {*keys}]
      assert sorted(groups) == sorted(group for group in want if len(group) > 1)


def test_what_is_found_is_a_mapping_of_those_in_clusters():
  found = Clusters(np.array([3, 5, 8, 13]), np.array([0, 1, 0, 3]), np.array([1, 1, 4, 1]))
  assert [*found] == [3, 8] and len(found) == 2 and 5 not in found and 14 not in found
  assert found[8] == {'cluster': 3, 'size': 5, 'kept': False} and found[3]['kept']
