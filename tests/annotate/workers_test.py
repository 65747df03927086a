"""Workers: results in order, time that runs from the start of a job, and nobody held up."""

import sys
import threading
import time

import pytest

from llm_jax.annotate.workers import Failure, run_all


@pytest.fixture
def released():
  """An event that jobs hang on, set when the test is over."""
  event = threading.Event()
  yield event
  event.set()


@pytest.mark.parametrize('workers', [1, 3, 50])
def test_results_are_in_the_order_of_the_jobs(workers):
  def job(i):
    time.sleep(0.01 * (i % 3))
    return i

  jobs = [lambda i=i: job(i) for i in range(20)]
  assert run_all(jobs, workers=workers, timeout=10) == list(range(20))
  assert run_all([], workers=workers, timeout=10) == []


def test_as_many_work_at_a_time_as_there_are_workers():
  inside, most, lock = [0], [0], threading.Lock()

  def job():
    with lock:
      inside[0] += 1
      most[0] = max(most[0], inside[0])
    time.sleep(0.02)
    with lock:
      inside[0] -= 1

  run_all([job] * 12, workers=3, timeout=10)
  assert most == [3]


def test_who_raises_fails_alone():
  def job(i):
    return 6 // i

  first, *others = run_all([lambda i=i: job(i) for i in (0, 1, 2)], workers=2, timeout=10)
  assert others == [6, 3]
  assert isinstance(first, Failure) and isinstance(first.error, ZeroDivisionError)
  assert str(first).startswith('ZeroDivisionError: ')


def test_who_hangs_is_given_up_and_replaced(released):
  jobs = [lambda i=i: released.wait(60) if i % 2 else i for i in range(8)]
  start = time.monotonic()
  results = run_all(jobs, workers=2, timeout=0.3)  # more hang than there are workers
  assert time.monotonic() - start < 10
  assert results[::2] == [0, 2, 4, 6]
  assert {str(result) for result in results[1::2]} == {'gave up after 0.3 s'}


def test_who_wants_to_end_the_program_fails():
  results = run_all([sys.exit, lambda: 1], workers=1, timeout=10)
  assert isinstance(results[0], Failure) and results[1] == 1


def test_time_runs_from_the_start_of_a_job():
  job = lambda: time.sleep(0.15)  # together more than the time of one
  assert run_all([job] * 8, workers=1, timeout=1.0) == [None] * 8


def test_a_late_result_changes_nothing(released):
  done = threading.Event()

  def job():
    released.wait(60)
    done.set()
    return 'late'

  results = run_all([job, lambda: 1], workers=2, timeout=0.2)
  released.set()
  assert done.wait(10)
  time.sleep(0.05)
  assert isinstance(results[0], Failure) and results[1] == 1


def test_no_signal_is_needed(released):
  """Signals would work in the main thread alone."""
  found = []
  run = lambda: found.extend(run_all([lambda: released.wait(60)], workers=1, timeout=0.2))
  thread = threading.Thread(target=run)
  thread.start()
  thread.join(10)
  assert [str(result) for result in found] == ['gave up after 0.2 s']
