"""Templates of strangers: they reach nothing, and take neither time nor memory."""

import time

import pytest

from llm_jax.text import sandbox
from llm_jax.text.sandbox import Sandboxed
from llm_jax.types import BadInput

pytest.importorskip('jinja2')

GROW = '{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = NEXT %}{% endfor %}'
BOMBS = {
  'a long range': '{% for i in range(10**9) %}{% endfor %}',
  'loops in loops': '{% for a in range(9999) %}' * 4 + '{% endfor %}' * 4,
  'no output': '{% for a in range(9999) %}{% for b in range(9999) %}{% set x = 1 %}{% endfor %}'
  '{% endfor %}',
  'a loop in itself': '{% for a in [1] recursive %}{{ loop([1, 2]) }}{% endfor %}',
  'a macro in itself': '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
  'a tree of macros': '{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}'
  '{% endmacro %}{{ f(60) }}',
  'times': "{{ 'a' * 10**9 }}",
  'times, unused': "{% set x = 'a' * 10**9 %}",
  'power': '{{ 9 ** (10**8) }}',
  'squares': GROW.replace('START', '9').replace('NEXT', 'ns.x * ns.x'),
  'sums': GROW.replace('START', "'a'").replace('NEXT', 'ns.x + ns.x'),
  'tildes': GROW.replace('START', "'a'").replace('NEXT', 'ns.x ~ ns.x'),
  'lists': GROW.replace('START', '[1]').replace('NEXT', 'ns.x + ns.x'),
  'nests': GROW.replace('START', '[1]').replace('NEXT', '[ns.x, ns.x]') + '{{ ns.x }}',
  'JSON': GROW.replace('START', '[1]').replace('NEXT', "{'a': ns.x, 'b': ns.x}")
  + '{{ ns.x | tojson }}',
  'blocks': GROW.replace(
    '{% set ns.x = NEXT %}', '{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}'
  ).replace('START', "'aa'"),
  'itself': '{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}',
  'replace': "{% set x = 'a' * 10**5 %}{{ x.replace('a', x) }}",
  'a filter': "{% set x = 'a' * 10**5 %}{{ x | replace('a', x) }}",
  'join': "{% set x = 'a' * 10**5 %}{{ x.join(['a'] * 10**5) }}",
  'another join': "{% set x = 'a' * 10**5 %}{{ range(10**5) | join(x) }}",
  'widths': "{{ 'x'.ljust(10**9) }}",
  'a format': "{{ '{:1000000000}'.format(1) }}",
  'an old format': "{{ '%1000000000d' % 1 }}",
  'a star': "{{ '%*d' % (10**9, 1) }}",
  'center': "{{ 'x' | center(10**9) }}",
  'indent': "{{ 'x' | indent(10**9, true) }}",
  'JSON, indented': '{{ [1] | tojson(indent=10**9) }}',
  'a date': "{{ strftime_now('%1000000000Y') }}",
  'searches': "{% set x = 'a' * 10**7 %}{% for i in range(99999) %}{{ x.find('ab') }}{% endfor %}",
  'parentheses': '{{ ' + '(' * 9000 + '1' + ')' * 9000 + ' }}',
  'a long text': 'x' * (sandbox.MOST_TEXT + 1),
}
TRICKS = [
  "{{ ''.__class__.__mro__[1].__subclasses__() }}",
  "{{ ''['__class__'].x }}",
  "{{ (''|attr('__class__')).x }}",
  '{{ raise_exception.__globals__.x }}',
  '{{ strftime_now.__code__.x }}',
  '{{ range.__self__.x }}',
  '{{ self.__init__.__globals__ }}',
  '{{ messages.append(1) }}',
  '{{ messages[0].update(role=1) }}',
  '{{ lipsum.__globals__ }}',
  '{{ cycler.__init__.x }}',
  '{{ joiner.__init__.x }}',
  "{% import 'os' as os %}",
  "{% include '/etc/passwd' %}",
  "{% extends '/etc/passwd' %}",
  '{% macro f() %}{% endmacro %}{{ f._func.x }}',
  '{{ undefined.__init__.x }}',
]


@pytest.fixture(autouse=True)
def small_budget(monkeypatch):
  """The kinds are those of a large budget, and take less time."""
  monkeypatch.setattr(sandbox, 'STEPS', 20_000)
  monkeypatch.setattr(sandbox, 'CHARACTERS', 1 << 21)
  monkeypatch.setattr(sandbox, 'SECONDS', 0.3)


@pytest.mark.parametrize('kind', BOMBS)
def test_bombs_are_stopped_with_one_line(kind):
  began = time.thread_time()
  with pytest.raises(BadInput, match=r'^mine: ') as error:
    Sandboxed(BOMBS[kind], 'mine').render(None, messages=[])
  assert '\n' not in f'{error.value}' and len(f'{error.value}') < 400
  assert time.thread_time() - began < 2


@pytest.mark.parametrize('trick', TRICKS)
def test_nothing_is_reached(trick):
  messages = [{'role': 'user'}]
  with pytest.raises(BadInput, match=r'unsafe|undefined|no loader|no attribute'):
    Sandboxed(trick, 'mine').render(None, messages=messages)
  assert messages == [{'role': 'user'}]


def test_what_chat_templates_use_is_there():
  text = (
    '{%- for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}'
    "{{ m.role | upper ~ m.get('x', 'none') }}{% if loop.index == 2 %}{% break %}{% endif %}"
    "{% endfor %}{{ {'a': ['<é>']} | tojson }}{{ [1, 2] | tojson(indent=2) }}"
    "{{ messages | map(attribute='role') | join(', ') }}{{ 'x\ny' | indent(2) }}"
    "{{ ' a b '.strip().split(' ')[::-1] }}{% set x = namespace(y=1) %}{{ x.y + 1 }}"
    "{{ '%s-%d' % ('a', 3) }}{{ missing }}{{ none }}"
    "{{ messages | selectattr('role', 'eq', 'b') | list | length }}"
  )
  messages = [{'role': role} for role in 'abc']
  assert Sandboxed(text, 'mine').render(None, messages=messages) == (
    '2Bnone{"a": ["<é>"]}[\n  1,\n  2\n]a, b, cx\n  y[\'b\', \'a\']2a-3None1'
  )


def test_what_the_template_says_is_told():
  with pytest.raises(BadInput, match='mine: it cannot be rendered: roles must alternate'):
    Sandboxed("{{ raise_exception('roles must\nalternate') }}", 'mine').render(None)
  with pytest.raises(BadInput, match='mine: it cannot be rendered: unexpected'):
    Sandboxed('{{ ', 'mine')
