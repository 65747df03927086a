"""What waits for the device is bounded in seconds, and the device never waits for it."""

import time

import jax
import numpy as np
import pytest

from llm_jax.training import run_ahead
from llm_jax.training.run_ahead import RunAhead


class Device:
  """Computes what is launched, one after the other; time passes only where somebody sleeps."""

  def __init__(self, seconds):
    self.now, self.free, self.idle, self.seconds = 0.0, 0.0, 0.0, seconds

  def launch(self):
    start = max(self.now, self.free)
    if self.free:
      self.idle += start - self.free
    self.free = start + self.seconds
    device, done = self, self.free

    class Out(np.ndarray):
      def is_ready(self):
        return device.now >= done

    return {'loss': np.zeros(()).view(Out)}

  def sleep(self, seconds):
    self.now += seconds

  def perf_counter(self):
    return self.now


def walk(monkeypatch, seconds, *, host=1e-3, steps=200, change=lambda device, step: None):
  """[work in flight when a step was launched], and the device."""
  device, ahead, found = Device(seconds), RunAhead(seconds=2.0), []
  monkeypatch.setattr(run_ahead, 'time', device)
  monkeypatch.setattr(jax, 'Array', np.ndarray)
  for step in range(steps):
    change(device, step)
    device.sleep(host)
    ahead.wait()
    found.append(max(0.0, device.free - device.now))
    ahead.launched(device.launch())
  return found, device


@pytest.mark.parametrize('seconds', [0.005, 0.05, 0.7, 1.9, 5.0, 30.0])
def test_the_work_in_flight_is_bounded_and_the_device_is_busy(monkeypatch, seconds):
  found, device = walk(monkeypatch, seconds)
  assert max(found[3:]) <= 2.5
  assert device.idle == 0


def test_a_host_that_is_slower_than_the_device_is_not_held_up(monkeypatch):
  _, device = walk(monkeypatch, 0.01, host=0.1)
  assert device.now == pytest.approx(200 * 0.1, rel=0.02)


def test_it_follows_a_device_that_becomes_slower_or_faster(monkeypatch):
  slower = lambda device, step: setattr(device, 'seconds', 0.4 if step >= 100 else 0.05)
  found, device = walk(monkeypatch, 0.05, change=slower)
  assert max(found[150:]) <= 2.5 and device.idle == 0
  faster = lambda device, step: setattr(device, 'seconds', 0.05 if step >= 100 else 0.4)
  found, device = walk(monkeypatch, 0.4, change=faster, steps=400)
  assert max(found[3:]) <= 2.5 and device.idle < 0.1 and np.mean(found[300:]) > 0.5


def test_a_pause_of_the_host_is_not_taken_for_a_slow_step(monkeypatch):
  """An evaluation, for instance, in which all that was launched ends."""

  def pause(device, step):
    if step == 100:
      device.sleep(60)

  _, device = walk(monkeypatch, 0.05, change=pause)
  assert device.idle == pytest.approx(60, abs=3)


def test_waiting_ends_at_once_where_it_should_stop(monkeypatch):
  device, ahead = Device(100.0), RunAhead()
  monkeypatch.setattr(run_ahead, 'time', device)
  monkeypatch.setattr(jax, 'Array', np.ndarray)
  for _ in range(2):
    ahead.launched(device.launch())
  ahead.wait(lambda: device.now > 1)
  assert device.now < 1.1
  began = time.perf_counter()
  RunAhead().wait()
  assert time.perf_counter() - began < 0.1
