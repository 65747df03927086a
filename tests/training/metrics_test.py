"""metrics.jsonl: right numbers, one interval late, and whole after a kill."""

import time

import jax
import jax.numpy as jnp
import pytest

from llm_jax.training import metrics
from llm_jax.training.loop import Interrupted
from llm_jax.types import BadInput, Mean, Peak

SECONDS = 2.0  # every look at the clock is this much later


@pytest.fixture
def clock(monkeypatch):
  now = [0.0]

  def tick():
    now[0] += SECONDS
    return now[0]

  monkeypatch.setattr(time, 'perf_counter', tick)
  return now


def make(folder, **changes):
  options = dict(
    start_step=0,
    total_steps=8,
    log_every=2,
    tokens_per_step=100,
    flops_per_step=6000.0,
    peak_flops=None,
    learning_rate=lambda step: 0.1 * step,
    waited=lambda: 0.0,
    began=0.0,
  )
  return metrics.Log(folder, **options | changes)


def of(step, *, loss=None, count=1.0, skipped=0, in_a_row=0, **more):
  loss = float(step) if loss is None else loss
  return {
    'loss': Mean(jnp.float32(loss * count), jnp.float32(count)),
    'skipped': Mean.of(skipped),
    'skipped_in_a_row': Mean.of(in_a_row),
    **{name: Mean.of(value) for name, value in more.items()},
  }


def lines(folder):
  return metrics.read(folder)


def drive(log, first, last, **changes):
  for step in range(first, last + 1):
    log(step, None, of(step, **changes))


def test_one_line_an_interval_with_the_mean_over_its_targets(tmp_path):
  log = make(tmp_path)
  for step in range(1, 9):
    log(step, None, of(step, count=step))
  log.close()
  found = lines(tmp_path)
  assert [r['step'] for r in found] == [1, 2, 4, 6, 8]
  weighted = lambda *steps: sum(s * s for s in steps) / sum(steps)
  wanted = [1, 2, weighted(3, 4), weighted(5, 6), weighted(7, 8)]
  assert [r['loss'] for r in found] == pytest.approx(wanted)
  # The rate that the last update of the interval used.
  assert [r['learning_rate'] for r in found] == pytest.approx([0.0, 0.1, 0.3, 0.5, 0.7])
  assert metrics.read(tmp_path) == found


def test_a_run_that_ends_inside_an_interval_reports_the_rest(tmp_path):
  log = make(tmp_path, total_steps=7, log_every=5)
  drive(log, 1, 7)
  log.close()
  assert [(r['step'], r['loss']) for r in lines(tmp_path)] == [(1, 1), (5, 3.5), (7, 6.5)]


def test_nothing_is_fetched_before_the_next_interval_is_over(tmp_path, monkeypatch):
  fetched, now = [], [0]
  device_get = jax.device_get

  def get(tree):
    got = device_get(tree)
    fetched.append((now[0], [int(m['loss'].total) for m in got]))
    return got

  monkeypatch.setattr(jax, 'device_get', get)
  log = make(tmp_path, total_steps=9, log_every=3)
  for step in range(1, 10):
    now[0] = step
    log(step, None, of(step))
  log.close()
  # The first step is reported at once; then (2, 3) at step 6, and the end waits for everything.
  assert fetched == [(1, [1]), (6, [2, 3]), (9, [4, 5, 6]), (9, [7, 8, 9])]


def test_a_run_that_waits_for_its_device_anyway_reports_an_interval_at_its_end(tmp_path, clock):
  log = make(tmp_path, total_steps=7, log_every=3, late=False)
  seen = []
  for step in range(1, 8):
    clock[0] += 10  # a step
    log(step, None, of(step))
    seen.append([r['step'] for r in lines(tmp_path)])
  log.close()
  assert seen == [[1], [1], [1, 3], [1, 3], [1, 3], [1, 3, 6], [1, 3, 6, 7]]
  found = lines(tmp_path)
  assert [r['loss'] for r in found] == [1, 2.5, 5, 7]
  # Two steps, three and one, each in its own time and with a look at the clock.
  seconds = [100 * n / r['tokens_per_second'] for n, r in zip((2, 3, 1), found[1:], strict=True)]
  assert seconds == pytest.approx([20 + SECONDS, 30 + SECONDS, 10 + SECONDS])


def test_the_largest_of_an_interval_and_a_total_a_step(tmp_path):
  log = make(tmp_path, log_every=3, total_steps=4)
  for step, peak in enumerate([2.0, 9.0, 1.0, 4.0], start=1):
    more = {'ratio_max': Peak(jnp.float32(peak)), 'tokens': Mean(jnp.float32(10 * step), 0.0)}
    log(step, None, of(step) | more)
  log.close()
  found = lines(tmp_path)
  assert [r['ratio_max'] for r in found] == [2, 9, 4]
  assert [r['tokens'] for r in found] == [10, 25, 40]


def test_flush_reports_what_is_pending(tmp_path):
  log = make(tmp_path, total_steps=100, log_every=10)
  drive(log, 1, 13)
  assert [r['step'] for r in lines(tmp_path)] == [1]
  log.flush()
  assert [r['step'] for r in lines(tmp_path)] == [1, 10, 13]
  log.flush()
  assert len(lines(tmp_path)) == 3
  drive(log, 14, 20)
  log.flush()
  log.close()
  assert [(r['step'], r['loss']) for r in lines(tmp_path)][3:] == [(20, 17.0)]


def test_throughput_and_mfu(tmp_path, clock):
  log = make(tmp_path, peak_flops=12000.0)
  drive(log, 1, 8)
  log.close()
  first, *rest = lines(tmp_path)
  assert first['seconds_to_first_step'] == clock[0] - SECONDS * (len(rest)) and 'mfu' not in first
  # Between two looks at the clock lie 2 s and two steps (one in the interval after the first).
  assert [r['tokens_per_second'] for r in rest] == [50, 100, 100, 100]
  assert [r['flops_per_second'] for r in rest] == [3000, 6000, 6000, 6000]
  assert [r['mfu'] for r in rest] == [0.25, 0.5, 0.5, 0.5]


def test_where_the_peak_is_unknown_nothing_is_said_of_the_share_of_it(tmp_path, capsys):
  log = make(tmp_path)
  drive(log, 1, 8)
  log.close()
  assert not any('mfu' in r for r in lines(tmp_path))
  told = capsys.readouterr().out
  assert 'tokens/s' in told and 'mfu' not in told and 'n/a' not in told


def test_share_of_waiting_for_data(tmp_path, clock):
  waited = [0.0]
  log = make(tmp_path, waited=lambda: waited[0])
  drive(log, 1, 3)
  waited[0] = 0.5
  drive(log, 4, 4)
  waited[0] = 0.5 + 1.0
  drive(log, 5, 6)
  log.close()
  assert [r['data_wait'] for r in lines(tmp_path)[1:]] == [0.25, 0.5]


def test_evaluation_is_not_training_time(tmp_path, clock):
  waited = [0.0]
  log = make(tmp_path, waited=lambda: waited[0])
  drive(log, 1, 2)
  log.flush()
  clock[0] += 1000
  waited[0] += 1000
  log.evaluated(2, 'validation', {'loss': 1.5, 'bits_per_byte': 2.25})
  log.restart_clock()
  drive(log, 3, 4)
  log.flush()
  log.close()
  found = lines(tmp_path)
  assert found[2] == {'step': 2, 'validation/loss': 1.5, 'validation/bits_per_byte': 2.25}
  assert found[3]['tokens_per_second'] == 100 and found[3]['data_wait'] == 0


def test_what_a_person_sees(tmp_path, capsys, clock):
  log = make(tmp_path, total_steps=100, tokens_per_step=1_500_000, peak_flops=12000.0)
  drive(log, 1, 2, skipped=3)
  log.evaluated(2, 'validation', {'loss': 1.5, 'bits_per_byte': 2.25})
  drive(log, 3, 6, skipped=3)
  log.close()
  shown = capsys.readouterr().out.splitlines()
  assert shown[0].startswith('step      1/100  loss 1.0000  first step')
  assert 'validation: loss 1.5000  bits per byte 2.2500' in shown[1]
  last = shown[-1]
  for part in ('step      4/100', 'loss 3.5000', 'validation bits/byte 2.2500', '1.5M tokens/s',
               'mfu 50.0%', 'data wait 0.0%', 'eta ', 'skipped updates 3'):  # fmt: skip
    assert part in last


def test_samples_keep_their_lines_and_long_ones_are_broken(tmp_path, capsys):
  log = make(tmp_path)
  log.shown(4, ['Once\n\nupon a time \x1b[2J', 'word ' * 40], {})
  log.close()
  lines = capsys.readouterr().out.splitlines()
  assert lines[:3] == ['  | Once', '  |', '  | upon a time ␛[2J']
  assert len(lines) == 6 and all(len(line) < 100 for line in lines)
  assert ' '.join(line.removeprefix('  | ') for line in lines[3:]).split() == ['word'] * 40


def test_of_reinforcement_learning_a_line_says_reward_divergence_and_length(tmp_path, capsys):
  log = make(tmp_path, late=False)
  drive(log, 1, 2, reward=0.51234, answer_kl=1.5, kl=0.25, length=33.3333, entropy=2.0)
  log.close()
  last = capsys.readouterr().out.splitlines()[-1]
  assert 'loss 2.0000  reward 0.512  answer_kl 1.5  kl 0.25  length 33.3  ' in last
  assert 'entropy' not in last and lines(tmp_path)[-1]['entropy'] == 2


def test_a_resumed_run_drops_what_the_killed_one_said_after_the_checkpoint(tmp_path):
  log = make(tmp_path, log_every=1)
  drive(log, 1, 6)
  log.flush()
  log.evaluated(6, 'validation', {'loss': 1.0})
  log.close()
  log = make(tmp_path, log_every=1, start_step=4)
  assert [r['step'] for r in lines(tmp_path)] == [1, 2, 3, 4]
  drive(log, 5, 8)
  log.close()
  assert [(r['step'], r['loss']) for r in lines(tmp_path)] == [(s, s) for s in range(1, 9)]


def test_a_last_line_cut_off_by_a_kill_is_dropped(tmp_path):
  log = make(tmp_path, log_every=1)
  drive(log, 1, 6)
  log.flush()
  log.close()
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text()[:-30])
  assert [r['step'] for r in metrics.read(tmp_path)] == [1, 2, 3, 4, 5]
  log = make(tmp_path, log_every=1, start_step=5)
  drive(log, 6, 8)
  log.close()
  assert [r['step'] for r in lines(tmp_path)] == list(range(1, 9))


def test_too_many_skipped_updates_in_a_row_stop_the_run(tmp_path):
  log = make(tmp_path, max_skipped=4, total_steps=100)
  drive(log, 1, 6, skipped=3, in_a_row=3)
  log.flush()
  drive(log, 7, 9, skipped=9, in_a_row=4)
  with pytest.raises(metrics.Diverged, match=r'step 8: 4 updates in a row .*learning_rate'):
    log(10, None, of(10))
  assert issubclass(metrics.Diverged, Interrupted)
  found = lines(tmp_path)
  assert found[-1]['skipped'] == 9 and found[-1]['step'] == 8  # said before it was raised
  assert 'skipped_in_a_row' not in found[-1]


def test_skips_that_ended_do_not_stop_the_run(tmp_path):
  log = make(tmp_path, max_skipped=4, log_every=4)
  drive(log, 1, 7, skipped=20, in_a_row=20 - 17)
  log(8, None, of(8, skipped=20))
  log.close()
  assert [r['skipped'] for r in lines(tmp_path)] == [20, 20, 20]


@pytest.mark.parametrize('late', [True, False])
def test_a_metric_beyond_its_limit_stops_the_run_and_names_the_step_before(tmp_path, late):
  log = make(tmp_path, total_steps=100, limits={'loss': 1e9, 'answer_kl': 10}, late=late)
  drive(log, 1, 4, answer_kl=10)  # at the limit is not beyond it
  log(5, None, of(5, answer_kl=9))
  with pytest.raises(metrics.Overoptimized) as stop:
    drive(log, 6, 8, answer_kl=12)
  assert str(stop.value) == (
    'answer_kl 10.5 of steps 5 to 6 exceeds config.stop.answer_kl 10: the reward is being hacked'
  )
  assert stop.value.step == 4 and isinstance(stop.value, Interrupted)
  assert lines(tmp_path)[-1]['step'] == 6  # said before it was raised


def test_a_flush_before_a_checkpoint_asks_for_the_limits_too(tmp_path):
  log = make(tmp_path, total_steps=100, log_every=10, limits={'ratio_max': 5.0})
  peak = lambda value: {'ratio_max': Peak(jnp.float32(value))}
  for step in range(1, 4):
    log(step, None, of(step) | peak(step))
  log.flush()
  log(4, None, of(4) | peak(6))
  with pytest.raises(metrics.Overoptimized, match='ratio_max 6 of steps 4 to 4 ') as stop:
    log.flush()
  assert stop.value.step == 3


def test_a_run_that_goes_on_may_stop_in_its_first_interval(tmp_path):
  log = make(tmp_path, start_step=6, limits={'loss': 1.0})
  with pytest.raises(metrics.Overoptimized) as stop:
    log(7, None, of(7))
  assert stop.value.step == 6


def test_a_limit_of_an_unknown_metric_is_refused_at_the_first_step(tmp_path):
  log = make(tmp_path, limits={'anser_kl': 10.0})
  with pytest.raises(BadInput, match=r"stop: no metric 'anser_kl' in this run; did you mean 'answ"):
    log(1, None, of(1, answer_kl=0.0))


def test_numbers_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
  pytest.importorskip('tensorboardX', reason='an optional extra')
  log = make(tmp_path)
  drive(log, 1, 8)
  log.close()
  from tensorboardX.proto.event_pb2 import Event

  (path,) = (tmp_path / 'tensorboard').glob('events.out.tfevents.*')
  data, found = path.read_bytes(), []
  while data:  # length and its CRC, an event and its CRC
    size = int.from_bytes(data[:8], 'little')
    event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
    found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
  wanted = [(r['step'], 'loss', r['loss']) for r in lines(tmp_path)]
  assert [one for one in found if one[1] == 'loss'] == wanted and len(found) > len(wanted)


def test_only_the_first_host_writes(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  log = make(tmp_path)
  drive(log, 1, 8)
  log.evaluated(8, 'validation', {'loss': 1.0})
  log.close()
  assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ''


def test_the_curve_is_a_picture(tmp_path, monkeypatch):
  pytest.importorskip('matplotlib', reason='an optional extra')
  log = make(tmp_path)
  drive(log, 1, 8)
  log.evaluated(8, 'validation', {'loss': 1.0, 'bits_per_byte': 2.0})
  log.close()
  path = metrics.plot(tmp_path)
  assert path == tmp_path / 'loss.png'
  assert path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 5000


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
  log = make(tmp_path)
  log.close()
  monkeypatch.setattr(metrics.importlib.util, 'find_spec', lambda name: None)
  assert metrics.plot(tmp_path) is None
