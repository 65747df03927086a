"""The same solution of a word problem in either order: its answer first, or its steps."""

import re
from collections.abc import Mapping
from typing import Any

STATED = re.compile(r' ?The answer is [^.]*\. ?')


def ordered(record: Mapping[str, Any], *, steps_first: bool) -> Mapping[str, Any] | None:
  """A conversation whose answer is in this order; None where a calculator answers.

  >>> talk = {'messages': [{'role': 'assistant', 'content': 'The answer is $6. 2 * $3 = $6.'}]}
  >>> ordered(talk, steps_first=True)['messages'][0]['content']
  '2 * $3 = $6. The answer is $6.'
  """
  *before, last = record['messages']
  if not isinstance(last['content'], str):
    return None
  (answer,) = STATED.findall(last['content'])
  parts = [STATED.sub('', last['content']), answer.strip()]
  text = ' '.join(parts if steps_first else parts[::-1])
  return {**record, 'messages': [*before, {**last, 'content': text}]}
