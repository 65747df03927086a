"""The label page: what its file may hold, and what it does in a browser before its server."""

import json
import re
import time

import pytest

from llm_jax.jobs.label_server import PAGE, Server, tokens
from llm_jax.labels import candidates
from llm_jax.labels.export import export
from llm_jax.labels.log import Log
from tests.web.pages import Elements, watched

HTML = PAGE.read_text()
HOSTILE = (
  '<img src=/stolen onerror="document.title=1"><script>document.title = 2</script></textarea>',
  '\u202egnp.exe \u200bhidden <|im_start|> \x1b[2J </script> javascript:alert(1)',
)


def test_text_never_becomes_markup_and_no_other_server_is_asked():
  forbidden = 'innerHTML|outerHTML|insertAdjacentHTML|document.write|DOMParser|srcdoc|eval|Function'
  assert not re.search(forbidden, HTML) and len(HTML.encode()) < 40_000
  elements = Elements(HTML).found
  for tag, attributes in elements:
    assert not [name for name in attributes if name.startswith('on') or name == 'style']
    assert tag not in ('iframe', 'object', 'embed', 'base', 'img') and 'src' not in attributes
    assert attributes.get('href', '#').startswith(('#', 'data:,'))
  assert not re.search(r'https?://|@import|url\(', HTML)
  ids = [attributes['id'] for _, attributes in elements if 'id' in attributes]
  assert len(ids) == len({*ids}) and {*re.findall(r"\$\('([\w-]+)'\)", HTML)} <= {*ids}


# --- in a browser ---------------------------------------------------------------------------------


class Site:
  """A log of items and the server before it."""

  def __init__(self, folder, records, annotators=('ann',), ask='compare', **options):
    self.log = Log(folder / 'labels.sqlite', again=0.0, **options)
    self.log.put(candidates.items((str(i), one) for i, one in enumerate(records))[0])
    self.tokens = tokens(folder / 'tokens.json', annotators)
    self.server = Server(self.log, self.tokens, guideline='Prefer what is true.', ask=ask)
    self.server.start()

  def restart(self):
    """The same server once more, at the same address, with what is in the log now."""
    port = self.server.server_port
    self.server.stop()
    self.server = Server(self.log, self.tokens, port=port)
    self.server.start()

  def url(self, name='ann'):
    return f'{self.server.url}#{self.tokens[name]}'

  def close(self):
    self.server.stop()
    self.log.close()

  def count(self, number):
    """The events, once there are so many."""
    end = time.monotonic() + 10
    while len(self.log.events()) < number and time.monotonic() < end:
      time.sleep(0.02)
    found = self.log.events()
    assert len(found) == number
    return found


def pairs(count, *, texts=('one two three', 'one four three five')):
  told = lambda i: [f'{text} {i}' for text in texts]
  return [{'prompt': f'Question {i}?', 'responses': told(i)} for i in range(count)]


@pytest.fixture
def site(tmp_path):
  made = []

  def build(records, **options):
    made.append(Site(tmp_path, records, **options))
    return made[-1]

  yield build
  for one in made:
    one.close()


@pytest.fixture
def context(browser):
  made = browser.new_context()
  made.set_default_timeout(5000)
  made.faults, made.urls = [], []
  made.on('request', lambda request: made.urls.append(request.url))
  yield made
  made.close()
  assert made.faults == []


def opened(context, url):
  page = watched(context)
  page.goto(url)
  page.wait_for_selector('article')
  return page


def answers(page):
  return page.locator('article .answer').all_text_contents()


def ids(page):
  return page.eval_on_selector_all('article', 'all => all.map((one) => one.dataset.id)')


def prompt(page):
  return page.locator('#prompt .text').last.text_content()


# Another item, or the word that there is none; while the page waits for one, keys do nothing.
NEXT = """(text) => {
  const note = document.getElementById('note');
  return note.hidden ? document.querySelector('#prompt .text').textContent !== text
    : !note.textContent.includes('One moment');
}"""


def follows(page, before):
  page.wait_for_function(NEXT, arg=before)


def test_ten_items_by_keyboard_alone(context, site):
  made = site(pairs(10))
  page = opened(context, made.url())
  seen = []
  for key in '1234567808':
    seen.append((prompt(page), ids(page), answers(page)))
    page.keyboard.press(key)
    follows(page, seen[-1][0])
  page.wait_for_selector('#note:has-text("All is labelled")')
  events = made.count(10)
  items = made.log.items()
  for event, (asked, order, texts) in zip(events, seen, strict=True):
    item = items[event['item']]
    assert item.prompt[0]['content'] == asked and event['shown'] == order
    assert [item.answer(one).text for one in order] == texts
  grades = [event['value'].get('grade') for event in events]
  assert grades == [-3, -2, -1, 0, 0, 1, 2, 3, None, 3]
  assert events[8]['value'] == {'bad': True}
  _, facts = export(items, events)
  assert facts['rows'] == {'reward': 9, 'dpo': 5, 'kto': 16, 'sft': 0}
  assert page.locator('#saved').text_content() == 'saved'
  assert len({event['page'] for event in events} | {''}) == 2


def test_what_is_graded_offline_is_sent_once_after_a_reload(context, site):
  made = site(pairs(8))
  page = opened(context, made.url())
  page.wait_for_load_state('networkidle')
  context.set_offline(True)
  for key in '126':
    before = prompt(page)
    page.keyboard.press(key)
    follows(page, before)
  page.wait_for_selector('#saved.wrong:has-text("3 not saved")')
  assert made.log.events() == []
  lost = iter([True, True])

  def swallow(route):  # the server keeps the event, and its answer is lost
    if next(lost, False):
      route.fetch()
      route.abort()
    else:
      route.continue_()

  page.route('**/event', swallow)
  context.set_offline(False)
  page.reload()
  page.wait_for_selector('#saved:text-is("saved")')
  events = made.count(3)
  assert [event['value']['grade'] for event in events] == [-3, -2, 1]
  assert prompt(page) not in [made.log.item(one['item']).prompt[0]['content'] for one in events]


def test_undo_across_a_reload(context, site):
  made = site(pairs(4))
  page = opened(context, made.url())
  first, order = prompt(page), ids(page)
  page.keyboard.press('2')
  follows(page, first)
  made.count(1)
  page.reload()
  page.wait_for_selector('article')
  assert prompt(page) != first
  page.keyboard.press('u')
  page.wait_for_selector(f'#prompt :text-is("{first}")')
  assert ids(page) == order
  page.keyboard.press('7')
  events = made.count(3)
  assert [event['kind'] for event in events] == ['compare', 'undo', 'compare']
  (row,) = export(made.log.items(), events)[0]['reward.jsonl'].splitlines()
  assert json.loads(row)['margin'] == 2.0
  assert (
    json.loads(row)['chosen'][0]['content']
    == made.log.item(events[0]['item']).answer(order[1]).text
  )


def test_an_edit_by_keyboard_is_three_rows(context, site):
  made = site(pairs(2))
  page = opened(context, made.url())
  before, (first, second) = prompt(page), answers(page)
  page.keyboard.press('e')
  page.keyboard.press('2')
  page.wait_for_selector('#editor[open]')
  page.keyboard.press('Control+End')
  page.keyboard.type(' and 7 more')
  page.wait_for_selector('#changes ins:has-text("more")')
  assert prompt(page) == before  # 7 graded nothing
  page.keyboard.press('Control+Enter')
  page.wait_for_selector('article .badge:text-is("edited")')
  page.keyboard.press('7')
  events = made.count(2)
  assert events[0]['value'] == {'of': events[0]['value']['of'], 'text': f'{second} and 7 more'}
  files, facts = export(made.log.items(), events)
  assert facts['rows']['sft'] == 1 and facts['rows']['reward'] == 3
  told = [json.loads(line) for line in files['reward.jsonl'].splitlines()]
  texts = {(x['chosen'][0]['content'], x['rejected'][0]['content']): x['margin'] for x in told}
  edited = f'{second} and 7 more'
  assert texts == {(second, first): 2.0, (edited, second): 1.0, (edited, first): 3.0}
  page.keyboard.press('Tab')  # the first answer; e edits the one that has the focus
  page.keyboard.press('e')
  page.wait_for_selector('#editor[open]')
  page.keyboard.type('x')
  page.keyboard.press('Escape')
  assert not page.locator('#editor').evaluate('one => one.open') and len(made.log.events()) == 2


def test_an_edit_that_is_too_long_stays_on_the_page_until_it_is_shorter(context, site):
  made = site(pairs(2))
  page = opened(context, made.url())
  page.keyboard.press('e')
  page.keyboard.press('1')
  page.wait_for_selector('#editor[open]')
  page.fill('#draft', '\u8a9e' * 25_000)
  page.keyboard.press('Control+Enter')
  page.wait_for_selector('#long:has-text("bytes too long")')
  assert page.locator('#editor').evaluate('one => one.open') and made.log.events() == []
  page.fill('#draft', '\u8a9e' * 20_000)
  assert page.locator('#long').text_content() == ''
  page.keyboard.press('Control+Enter')
  assert made.count(1)[0]['value']['text'] == '\u8a9e' * 20_000


def test_what_the_server_refuses_is_never_called_saved(context, site):
  made = site(pairs(3))
  page = opened(context, made.url())
  page.evaluate('about.page = "x".repeat(101)')
  page.keyboard.press('7')
  page.wait_for_selector('#saved.wrong:text-is("1 not taken")')
  page.evaluate('about.page = ""')
  page.keyboard.press('7')
  made.count(1)
  page.reload()
  page.wait_for_selector('#saved.wrong:text-is("1 not taken")')
  assert 'page: give at most 100' in page.locator('#saved').get_attribute('title')
  context.faults.clear()  # the browser's own word about status 400


def test_what_was_not_sent_finds_its_log_among_more_items(context, site):
  made = site(pairs(4))
  page = opened(context, made.url())
  page.wait_for_load_state('networkidle')
  context.set_offline(True)
  before = prompt(page)
  page.keyboard.press('1')
  follows(page, before)
  page.wait_for_selector('#saved:has-text("1 not saved")')
  made.log.put(candidates.items((str(i), one) for i, one in enumerate(pairs(9)))[0])
  page.close()  # offline still, so what it did lies in the browser alone
  made.restart()
  context.set_offline(False)
  page = opened(context, made.url())
  page.wait_for_selector('#saved:text-is("saved")')
  assert made.count(1)[0]['value']['grade'] == -3


def test_hostile_answers_stay_text(context, site):
  long = 'x' * 1_000_000
  made = site([
    {'prompt': HOSTILE[0], 'responses': [*HOSTILE]},
    {'prompt': 'long', 'responses': [long, HOSTILE[1]]},
  ])  # fmt: skip
  page = opened(context, made.url())
  title = page.title()
  page.keyboard.press('d')
  page.keyboard.press('m')  # as Markdown from here on
  assert sorted(answers(page)) == sorted(HOSTILE) and prompt(page) == HOSTILE[0]
  page.keyboard.press('e')
  page.keyboard.press('1')
  page.wait_for_selector('#editor[open]')
  page.keyboard.press('Escape')
  page.keyboard.press('8')
  page.wait_for_selector('#prompt :text-is("long")')
  assert sorted(map(len, answers(page))) == sorted((len(long), len(HOSTILE[1])))
  assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
  page.keyboard.press('1')
  made.count(2)
  assert page.title() == title and not page.locator('main img, main script').count()
  assert {url.split('/')[3].split('#')[0] for url in context.urls if url.startswith('http')} <= {
    '', 'about', 'next', 'event',
  }  # fmt: skip


def test_skip_flag_and_the_dialogs(context, site):
  made = site(pairs(3))
  page = opened(context, made.url())
  page.keyboard.press('g')
  assert page.locator('#guideline').inner_text() == 'Prefer what is true.'
  page.keyboard.press('3')  # grades nothing while a dialog is open
  page.keyboard.press('Escape')
  page.keyboard.press('?')
  assert page.locator('#keys dt').count() >= 10
  page.keyboard.press('Escape')
  before = prompt(page)
  page.keyboard.press('d')
  assert page.locator('article del, article ins').count() >= 2
  page.keyboard.press('m')
  assert page.locator('article strong').count() == 0  # there is nothing to mark in it
  page.keyboard.press('c')
  page.keyboard.type('2 of them: odd')
  page.keyboard.press('Control+Enter')
  page.keyboard.press('f')
  page.keyboard.press('Escape')
  page.keyboard.press('f')
  page.keyboard.press('2')
  follows(page, before)
  page.keyboard.press('s')
  events = made.count(2)
  assert [(one['kind'], one['value']) for one in events] == [
    ('flag', {'reason': 'broken'}), ('skip', {'reason': ''}),
  ]  # fmt: skip
  assert [one.get('comment') for one in events] == ['2 of them: odd', None]


def test_markdown_is_a_switch(context, site):
  text = '# Why\n\n- **so** it is\n- *or* `not`\n\n```\na  *b*\n```\nthe end'
  made = site([{'prompt': 'q', 'responses': [text, 'plain']}])
  page = opened(context, made.url())
  assert text in answers(page) and page.locator('.marked').count() == 0
  page.keyboard.press('m')
  found = lambda what: page.locator(f'article {what}').all_text_contents()
  assert found('h3') == ['Why'] and found('li') == ['so it is', 'or not']
  assert found('strong') == ['so'] and found('em') == ['or'] and found('pre') == ['a  *b*']
  page.reload()
  page.wait_for_selector('article .marked')
  page.keyboard.press('m')
  assert text in answers(page)


def test_several_answers_are_ranked(context, site):
  made = site([{'prompt': 'q', 'responses': [*'abcd']}, {'prompt': 'p', 'responses': [*'abc']}])
  page = opened(context, made.url())
  shown = ids(page)
  for key in ('3', '1', 'Backspace', '2', '=', '1', '4'):
    page.keyboard.press(key)
  page.keyboard.press('Enter')
  (event,) = made.count(1)
  assert event['value'] == [[shown[2]], [shown[1], shown[0]], [shown[3]]]
  page.wait_for_function('document.querySelectorAll("article").length == 3')
  shown = ids(page)
  for key in ('1', '2', '=', 'Backspace', '3', '2'):  # what is taken back takes = with it
    page.keyboard.press(key)
  page.keyboard.press('Enter')
  assert made.count(2)[1]['value'] == [[shown[0]], [shown[2]], [shown[1]]]


def test_answers_can_be_rated(context, site):
  made = site(pairs(1), ask='rate')
  page = opened(context, made.url())
  shown = ids(page)
  for key in ('7', '3', 'Backspace', '2', 'Enter'):
    page.keyboard.press(key)
  (event,) = made.count(1)
  assert event['value'] == {shown[0]: 7, shown[1]: 2}


def test_two_annotators_share_the_items(browser, site):
  made = site(pairs(6), annotators=('ann', 'ben'), overlap=2)
  shown = {}
  for name in ('ann', 'ben'):
    context = browser.new_context()
    page = opened(_listening(context), made.url(name))
    for _ in range(6):
      before = prompt(page)
      page.keyboard.press('8')
      follows(page, before)
    page.wait_for_selector('#note:not([hidden])')
    made.count(6 * (len(shown) + 1))
    shown[name] = [one['shown'] for one in made.log.events() if one['annotator'] == name]
    context.close()
  for orders in shown.values():
    assert 2 <= orders.count(['r0', 'r1']) <= 4
  assert all(
    len({one['annotator'] for one in made.log.events() if one['item'] == name}) == 2
    for name in made.log.names()
  )


def _listening(context):
  context.faults, context.urls = [], []
  return context


def test_an_unknown_token_and_a_second_token_are_told_apart(context, site):
  made = site(pairs(1))
  page = context.new_page()
  page.goto(f'{made.server.url}#nobody')
  page.wait_for_selector('#note:has-text("not known")')


def test_every_control_is_reached_and_nothing_scrolls_sideways(browser, site):
  made = site(pairs(3, texts=('word ' * 60, 'longword' * 40)))
  context = _listening(
    browser.new_context(color_scheme='dark', viewport=dict(width=360, height=700))
  )
  page = opened(context, made.url())
  assert page.evaluate('document.documentElement.scrollWidth') <= 360
  dark = page.evaluate('getComputedStyle(document.body).backgroundColor')
  page.emulate_media(color_scheme='light')
  assert page.evaluate('getComputedStyle(document.body).backgroundColor') != dark
  reached, rings = [], []
  for _ in range(page.locator('article, button:visible').count()):
    page.keyboard.press('Tab')
    reached.append(page.evaluate('document.activeElement.textContent'))
    rings.append(page.evaluate('getComputedStyle(document.activeElement).outlineWidth'))
  assert len({*reached}) == len(reached) >= 18 and {*rings} == {'3px'}
  page.set_viewport_size(dict(width=1400, height=900))
  assert page.evaluate('document.documentElement.scrollWidth') <= 1400
  left, right = page.eval_on_selector_all(
    'article', 'all => all.map((one) => one.getBoundingClientRect().toJSON())'
  )
  assert left['width'] == right['width'] and left['top'] == right['top']
  context.close()
  assert not context.faults
