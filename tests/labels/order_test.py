"""Order is random to whoever looks, the same after a restart, and balanced."""

import itertools

from llm_jax.labels import candidates, order

IDS = [f'item {i}' for i in range(200)]


def items(count):
  lines = ((str(i), {'prompt': f'q{i}', 'responses': [f'one {i} two', 'b']}) for i in range(count))
  return candidates.items(lines)[0]


def test_half_of_each_block_of_ten_is_turned():
  for annotator, seed in itertools.product(('ann', 'ben'), range(3)):
    turned = order.turned(seed, IDS, annotator)
    for start in range(0, len(IDS), 10):
      assert len(turned & {*IDS[start : start + 10]}) == 5


def test_the_side_depends_on_seed_item_and_annotator_and_on_nothing_else():
  assert order.turned(0, IDS, 'ann') == order.turned(0, IDS, 'ann')
  assert order.turned(0, IDS, 'ann') != order.turned(0, IDS, 'ben')
  assert order.turned(0, IDS, 'ann') != order.turned(1, IDS, 'ann')
  # Items that come later turn none that were there.
  assert order.turned(0, IDS[:100], 'ann') == order.turned(0, IDS, 'ann') & {*IDS[:100]}


def test_what_comes_again_is_the_other_way_round():
  (pair,) = items(1)
  many = candidates.item({'prompt': 'q', 'responses': [*'abcd']})
  for one, turn in ((pair, False), (pair, True), (many, False)):
    first = order.shown(0, one, 'ann', turn=turn)
    assert order.shown(0, one, 'ann', turn=turn, again=True) == first[::-1]
  shown = {tuple(order.shown(seed, many, 'ann', turn=False)) for seed in range(300)}
  assert len(shown) == 24  # every order of four


def test_one_in_twenty_comes_again():
  found = order.repeated(0, IDS, 'ann', 0.05)
  for start in range(0, len(IDS), 20):
    assert len(found & {*IDS[start : start + 20]}) == 1
  assert order.repeated(0, IDS, 'ann', 0.0) == set()
  assert order.repeated(0, IDS, 'ben', 0.05) != found


def test_gold_is_broken_on_purpose_and_the_whole_answer_has_to_win():
  some = items(300)
  made = order.with_gold(some, 0.03, seed=0)
  assert made == order.with_gold(some, 0.03, seed=0)
  gold = [one for one in made if one.gold]
  assert len(gold) == 9 and [one for one in made if not one.gold] == some
  texts = {answer.text for one in some for answer in one.answers}
  for one in gold:
    assert one.answer(one.gold).text in texts
    assert {answer.about.get('broken') for answer in one.answers} - {None} <= {*order.BROKEN}
  assert len({one.answers[1].about['broken'] for one in gold}) > 1
  assert order.with_gold(some, 0.0, seed=0) == some
