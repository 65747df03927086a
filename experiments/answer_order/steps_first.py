"""Rows for SFT whose solutions reason before they state the answer."""

from functools import partial

from experiments.answer_order.order import ordered

record = partial(ordered, steps_first=True)
