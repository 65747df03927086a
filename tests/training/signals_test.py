"""A signal is taken once, cuts short what is not worth finishing, and is remembered."""

import os
import signal

import pytest

from llm_jax.training.signals import Signals


def test_the_handlers_are_put_back_whatever_happens():
  found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
  for error in (None, OSError):
    try:
      with Signals().handled():
        assert all(signal.getsignal(number) != found[number] for number in found)
        if error:
          raise error
    except OSError:
      pass
    assert {number: signal.getsignal(number) for number in found} == found


def test_work_is_cut_short_and_no_other_is_begun():
  signals, reached = Signals(), []

  def work():
    try:
      reached.append('begun')
      os.kill(os.getpid(), signal.SIGTERM)
      reached.append('finished')
    except Exception:  # as a user's annotator might
      reached.append('kept')

  with signals.handled():
    assert signals.cut(lambda: 5) == 5
    assert signals.cut(work) is None and signals.cut(work) is None
  assert reached == ['begun'] and signals.number == signal.SIGTERM


def test_what_is_not_to_be_cut_goes_on():
  signals = Signals(reuse=3)
  with signals.handled():
    os.kill(os.getpid(), signal.SIGTERM)
    assert [signals.stop(step) for step in range(4)] == [True, False, False, True]


def test_a_second_signal_is_not_taken():
  with Signals().handled(), pytest.raises(KeyboardInterrupt):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
