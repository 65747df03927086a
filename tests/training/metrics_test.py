"""metrics.jsonl: right numbers, one interval late, and whole after a kill."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from llm_jax.training import metrics
from llm_jax.training.loop import Interrupted
from llm_jax.types import Mean

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


def of(step, *, loss=None, count=1.0, skipped=0, in_a_row=0):
  loss = float(step) if loss is None else loss
  return {
    'loss': Mean(jnp.float32(loss * count), jnp.float32(count)),
    'skipped': Mean.of(skipped),
    'skipped_in_a_row': Mean.of(in_a_row),
  }


def lines(folder):
  return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


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


def test_mfu_is_null_where_the_peak_is_unknown(tmp_path, capsys):
  log = make(tmp_path)
  drive(log, 1, 8)
  log.close()
  assert [r['mfu'] for r in lines(tmp_path)[1:]] == [None] * 4
  assert 'mfu cpu: n/a' in capsys.readouterr().out


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
  log.validation(2, {'loss': 1.5, 'bits_per_byte': 2.25})
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
  log.validation(2, {'loss': 1.5, 'bits_per_byte': 2.25})
  drive(log, 3, 6, skipped=3)
  log.close()
  shown = capsys.readouterr().out.splitlines()
  assert shown[0].startswith('step      1/100  loss 1.0000  first step')
  assert 'validation: loss 1.5000  bits per byte 2.2500' in shown[1]
  last = shown[-1]
  for part in ('step      4/100', 'loss 3.5000', 'validation bits/byte 2.2500', '1.5M tokens/s',
               'mfu 50.0%', 'data wait 0.0%', 'eta ', 'skipped updates 3'):  # fmt: skip
    assert part in last


def test_a_resumed_run_drops_what_the_killed_one_said_after_the_checkpoint(tmp_path):
  log = make(tmp_path, log_every=1)
  drive(log, 1, 6)
  log.flush()
  log.validation(6, {'loss': 1.0})
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


def test_numbers_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
  pytest.importorskip('tensorboardX', reason='an optional extra')
  log = make(tmp_path)
  drive(log, 1, 8)
  log.close()
  assert list((tmp_path / 'tensorboard').glob('events.*'))


def test_only_the_first_host_writes(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  log = make(tmp_path)
  drive(log, 1, 8)
  log.validation(8, {'loss': 1.0})
  log.close()
  assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ''


def test_the_curve_is_a_picture(tmp_path, monkeypatch):
  pytest.importorskip('matplotlib', reason='an optional extra')
  log = make(tmp_path)
  drive(log, 1, 8)
  log.validation(8, {'loss': 1.0, 'bits_per_byte': 2.0})
  log.close()
  path = metrics.plot(tmp_path)
  assert path == tmp_path / 'loss.png'
  assert path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 5000


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
  log = make(tmp_path)
  log.close()
  monkeypatch.setattr(metrics.importlib.util, 'find_spec', lambda name: None)
  assert metrics.plot(tmp_path) is None
