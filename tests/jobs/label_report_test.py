"""The report finds the biases that were put in, and none where there are none."""

import random

import pytest

from llm_jax.evals import agreement
from llm_jax.jobs import label_facts, label_report
from llm_jax.jobs.page import markdown
from llm_jax.labels import candidates, order
from llm_jax.labels.export import export


def items(count):
  texts = lambda i: [f'answer {i}', f'another answer, longer, {i}']
  lines = ((str(i), {'prompt': f'q{i}', 'responses': texts(i)}) for i in range(count))
  return {one.id: one for one in candidates.items(lines)[0]}


def labelled(some, who='ann', *, first=0.5, grade=lambda rng: rng.randint(1, 3), seed=0, seq=0):
  """An annotator who takes the answer that is shown first with a probability."""
  rng, events = random.Random(f'{seed} {who}'), []
  turned = order.turned(0, [*some], who)
  for name, item in some.items():
    shown = order.shown(0, item, who, turn=name in turned)
    wins = rng.random() < first
    size = grade(rng)
    events.append(event(name, shown, -size if wins else size, who, seq + len(events) + 1))
  return events


def event(item, shown, grade, who, seq, **more):
  value = {'grade': grade, 'better': shown[grade > 0]}
  told = {'seq': seq, 'at': '', 'client': f'{who} {seq}', 'annotator': who, 'item': item}
  return {**told, 'kind': 'compare', 'shown': shown, 'value': value, 'seconds': 5.0, **more}


def test_a_preference_for_a_position_is_found_and_none_is_found_where_there_is_none():
  some = items(200)
  biased = label_facts.measured(some, labelled(some, first=0.6, seed=1))
  assert biased['position']['n'] == 200 and biased['position']['share'] > 0.55
  assert biased['position']['p'] < 0.01
  assert any('shown first won' in line for line in label_report.warnings(biased))
  fair = label_facts.measured(some, labelled(some, seed=2))
  assert fair['position']['p'] > 0.01 and fair['position']['low'] < 0.5 < fair['position']['high']
  assert not any('shown first' in line for line in label_report.warnings(fair))


def test_the_longer_answer_and_the_speed_are_reported():
  some = items(60)
  events = []
  for i, (name, item) in enumerate(some.items()):
    shown = [answer.id for answer in item.answers]
    events.append(event(name, shown, 2, 'ann', i + 1, seconds=1.0 + (i % 3) / 10))
  found = label_facts.measured(some, events)
  assert found['length']['share'] == 1.0 and found['length']['p'] < 1e-9
  assert found['annotators']['ann']['seconds'] == pytest.approx(1.1)
  assert any('too fast to read' in line for line in label_report.warnings(found))


def test_self_agreement_and_gold():
  some = items(40)
  plain = [*some]
  whole = order.with_gold([*some.values()], 0.1, seed=0)
  gold = [one for one in whole if one.gold]
  everything = {one.id: one for one in whole}
  events = labelled(some, first=1.0)
  for i, name in enumerate(plain[:10]):  # comes again the other way round
    before = events[i]
    shown = before['shown'][::-1]
    same = before['shown'].index(before['value']['better']) == 0
    grade = 1 if same and i < 7 else -1
    events.append(event(name, shown, grade, 'ann', len(events) + 1, again=True))
  for i, one in enumerate(gold):
    events.append(event(one.id, ['r0', 'r1'], -3 if i else 3, 'ann', len(events) + 1))
  found = label_facts.measured(everything, events)['annotators']['ann']
  assert (found['itself']['k'], found['itself']['n']) == (7, 10)
  assert (found['gold']['k'], found['gold']['n']) == (len(gold) - 1, len(gold)) == (3, 4)
  assert found['position']['n'] == 40  # neither gold nor what came again


def test_coefficients_are_those_of_evals_and_have_intervals():
  some = items(50)
  grades = {
    who: {name: event['value'] for name, event in zip(some, labelled(some, who, seed=3))}
    for who in ('ann', 'ben')
  }
  events = labelled(some, 'ann', seed=3)
  events += labelled(some, 'ben', seed=3, seq=len(events))
  found = label_facts.measured(some, events)['agreement']
  sign = lambda value: abs(value['grade']) * (1 if value['better'] == 'r1' else -1)
  a, b = ([sign(grades[who][name]) for name in some] for who in ('ann', 'ben'))
  pair = found['pairs']['ann, ben']
  cohen = agreement.cohen(a, b, 'quadratic').value
  assert pair['cohen']['value'] == pytest.approx(cohen, abs=1e-9)
  alpha = agreement.krippendorff([a, b], 'ordinal').value
  assert found['krippendorff']['value'] == pytest.approx(alpha, abs=1e-9)
  assert found['krippendorff']['low'] < alpha < found['krippendorff']['high']
  sides = [[1 if x > 0 else -1 for x in one] for one in (a, b)]
  assert found['fleiss']['value'] == pytest.approx(agreement.fleiss(sides).value, abs=1e-9)
  assert pair['percent']['value'] == agreement.percent(*sides).value


def test_the_report_shows_what_was_found_and_nothing_acts_in_it(tmp_path):
  some = items(30)
  name = next(iter(some))
  hostile = candidates.item({'prompt': '<script>x</script>', 'responses': ['\x1b[2J', '**b**']})
  some[hostile.id] = hostile
  events = labelled(some, 'ann', first=0.9)
  events += labelled(some, 'ben', first=0.1, seq=len(events))
  flag = {'kind': 'flag', 'value': {'reason': 'unsafe'}, 'seq': 1000, 'annotator': 'ann'}
  events.append({**events[0], **flag, 'item': name, 'client': 'flag'})
  _, exported = export(some, events)
  facts = label_report.write(tmp_path, some, events, exported)
  page = (tmp_path / 'report.html').read_text()
  text = (tmp_path / 'report.md').read_text()
  assert '<script>' not in page and '\x1b' not in page + text
  assert facts['disputed'] and 'Most disputed' in page and 'unsafe' in text
  assert 'Krippendorff' in page and 'first' in markdown(
    label_report.blocks(facts, exported), tmp_path
  )
  alone = label_facts.measured(some, events[:31])
  assert alone['agreement']['krippendorff'] is None and not alone['disputed']
  label_report.write(tmp_path, some, events[:31], exported)
