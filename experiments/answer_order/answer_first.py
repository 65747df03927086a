"""Rows for SFT whose solutions state the answer before they reason."""

from functools import partial

from experiments.answer_order.order import ordered

record = partial(ordered, steps_first=False)
