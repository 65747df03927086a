"""Every example in a docstring prints what stands below it.

Only modules that have examples are imported, each by the test of its own, so that collecting costs
nothing and no extra is needed for the others.
"""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def with_examples():
  files = sorted((ROOT / 'llm_jax').rglob('*.py'))
  found = [path for path in files if re.search(r'^ +>>> ', path.read_text(), re.MULTILINE)]
  return ['.'.join(path.relative_to(ROOT).with_suffix('').parts) for path in found]


@pytest.mark.parametrize('name', with_examples())
def test_the_examples_of_a_module_print_what_they_say(name):
  failed, tried = doctest.testmod(importlib.import_module(name))
  assert tried and not failed
