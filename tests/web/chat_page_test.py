"""The chat page: what its file may hold, and what it does in a browser before a small server."""

import json
import re
import time
from pathlib import Path

import pytest

from llm_jax.labels.feedback import export
from llm_jax.serving import page as served_page
from llm_jax.text.visible import visible
from tests.web.fake_server import HOSTILE, FakeServer
from tests.web.pages import Elements, watched

HTML = served_page.FILES['/'].read_text()


def test_text_never_becomes_markup_or_code():
  forbidden = (
    'innerHTML|outerHTML|insertAdjacentHTML|document.write|createContextualFragment|DOMParser|'
    r'srcdoc|\beval\b|new Function|import\(|setTimeout\([\'"`]|javascript:'
  )
  assert not re.search(forbidden, HTML)


def test_the_page_is_one_file_that_asks_no_other_server():
  for tag, attributes in Elements(HTML).found:
    assert not [name for name in attributes if name.startswith('on') or name == 'style']
    assert tag not in ('iframe', 'object', 'embed', 'base', 'img')
    assert 'src' not in attributes
    assert attributes.get('href', '#').startswith(('#', 'data:,'))
  assert not re.search(r'@import|url\(', HTML)
  # Addresses appear in the two patterns that find them in text, and nowhere else.
  assert {match for match in re.findall(r'https?:/*[\w.-]+', HTML)} == set()
  asked = set(re.findall(r"call\([`']([^`'$]*)", HTML))
  assert asked == {'v1/chat/completions', 'v1/models', 'events', 'events/'}  # relative to the page


def test_one_script_and_one_style_have_hashes():
  tags = [tag for tag, _ in Elements(HTML).found]
  assert tags.count('script') == tags.count('style') == 1
  assert HTML.count('<script>') == HTML.count('</script>') == 1
  policy = served_page.policy(HTML)
  assert policy.count("'sha256-") == 2 and 'unsafe' not in policy


def test_what_the_script_looks_for_is_there_and_has_a_name():
  elements = Elements(HTML).found
  ids = [attributes['id'] for _, attributes in elements if 'id' in attributes]
  assert len(ids) == len(set(ids))
  assert set(re.findall(r"\$\('([\w-]+)'\)", HTML)) <= set(ids)
  labelled = [a for tag, a in elements if tag in ('select', 'textarea') and 'aria-label' in a]
  assert len(labelled) == 3  # the others stand inside of labels
  assert ('html', {'lang': 'en'}) in elements


def test_the_package_holds_the_page():
  setup = (Path(__file__).parents[2] / 'setup.py').read_text()
  assert "'llm_jax': ['web/*.html', 'data/texts/*']" in setup


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def listening():
  server = FakeServer()
  yield server
  server.shutdown()


@pytest.fixture
def server(listening, tmp_path):
  listening.reset(tmp_path / 'events.sqlite')
  yield listening
  listening.feedback.close()


@pytest.fixture
def context(browser):
  made = browser.new_context()
  made.set_default_timeout(5000)
  made.faults = []
  yield made
  made.close()
  assert made.faults == []


def opened(context, server):
  page = watched(context)
  page.goto(server.url)
  page.wait_for_selector('#model option', state='attached')
  return page


@pytest.fixture
def page(context, server):
  return opened(context, server)


def ask(page, text, wait=True):
  page.fill('#ask', text)
  page.press('#ask', 'Enter')
  if wait:
    ended(page)


def ended(page):
  page.wait_for_selector('#send:text-is("Send")')


def answers(page):
  return page.locator('article .text').all_inner_texts()


def places(page):
  """Where the answers are, all at one moment."""
  script = 'all => all.map(x => x.getBoundingClientRect().toJSON())'
  return page.locator('article').evaluate_all(script)


def until(check, seconds=5.0):
  """Waits for what a server sees."""
  end = time.monotonic() + seconds
  while not check() and time.monotonic() < end:
    time.sleep(0.02)
  assert check()


def consent(page):
  page.click('#settings')
  page.check('#consent')
  page.keyboard.press('Escape')


def roles(body):
  return [(message['role'], message['content']) for message in body['messages']]


def test_an_answer_streams_and_the_next_question_carries_it(page, server):
  ask(page, 'slow 20', wait=False)
  page.wait_for_selector('article .text:has-text("word3")')
  assert 'word19' not in answers(page)[0]  # it is seen before it is whole
  ended(page)
  said = answers(page)[0].rstrip()
  assert said.endswith('word19')
  ask(page, 'and then')
  assert roles(server.asked[1]) == [
    ('user', 'slow 20'), ('assistant', said + ' '), ('user', 'and then')]  # fmt: skip
  body = server.asked[1]
  assert body['stream'] and body['model'] == 'small' and 'logprobs' not in body and 'n' not in body
  assert page.inner_text('#room') == '25 of 512 tokens used'


def test_stop_ends_the_request_and_keeps_what_was_said(page, server):
  for stop in (lambda: page.click('#send'), lambda: page.keyboard.press('Escape')):
    ask(page, 'slow 500', wait=False)
    page.wait_for_selector('article:last-of-type .text:has-text("word2")')
    stop()
    ended(page)
    assert page.locator('.by:text-is("Stopped.")').count()
  until(lambda: server.left == 2)
  assert 'word2' in answers(page)[0]
  ask(page, 'go on')
  assert 'heard go on' in answers(page)[-1]


def test_drafts_can_be_made_anew_switched_and_set_side_by_side(page, server):
  page.click('#settings')
  page.fill('#seed', '7')
  page.keyboard.press('Escape')
  ask(page, 'one')
  page.click('text=Regenerate')
  ended(page)
  assert [body['seed'] for body in server.asked] == [7, 8]
  assert answers(page) == ['small heard one with 8']
  page.click('[aria-label="Earlier draft"]')
  assert answers(page) == ['small heard one with 7']
  page.click('text=Side by side')
  assert len(answers(page)) == 2
  page.click('text="Go on with this"')
  ask(page, 'two')
  assert roles(server.asked[-1])[1] == ('assistant', 'small heard one with 8')


def test_several_drafts_are_one_request(page, server):
  page.click('#settings')
  page.fill('#n', '3')
  page.keyboard.press('Escape')
  ask(page, 'hello')
  assert server.asked[0]['n'] == 3
  assert [text.split()[0] for text in answers(page)] == ['small', 'small', 'small']
  assert [text.split()[1] for text in answers(page)] == ['0', '1', '2']


def test_an_edited_message_is_asked_again_and_the_old_branch_stays(page, server):
  ask(page, 'first')
  ask(page, 'second')
  page.click('.user >> nth=0 >> text=Edit')
  page.keyboard.press('Control+a')
  page.keyboard.type('changed')
  page.keyboard.press('Control+Enter')
  ended(page)
  assert roles(server.asked[-1]) == [('user', 'changed')]
  assert len(answers(page)) == 1
  page.click('[aria-label="Earlier version of this message"]')
  assert [text.split()[2] for text in answers(page)] == ['first', 'second']


def test_conversations_survive_a_reload_also_in_the_middle_of_an_answer(page, server):
  ask(page, 'kept')
  page.click('#new')
  page.fill('#ask', 'typed, not sent')
  ask(page, 'slow 500', wait=False)
  page.wait_for_selector('article .text:has-text("word5")')
  page.fill('#ask', 'half a thought')
  page.reload()
  assert 'word5' in answers(page)[0]
  assert page.input_value('#ask') == 'half a thought'
  assert page.locator('text="Not finished."').count() == 1
  assert page.locator('nav .open').all_inner_texts() == ['slow 500', 'kept']
  page.click('nav .open:has-text("kept")')
  assert answers(page) == ['small heard kept with None']
  page.click('[aria-label="Delete slow 500"]')
  page.reload()
  assert page.locator('nav .open').all_inner_texts() == ['kept']


def test_two_tabs_in_one_conversation_lose_nothing(context, page, server):
  ask(page, 'start')
  other = opened(context, server)
  assert answers(other) == answers(page)
  ask(other, 'slow 25', wait=False)
  other.wait_for_selector('.text:has-text("word1")')
  ask(page, 'from the first tab')  # while the other streams
  ended(other)
  page.wait_for_timeout(700)  # both save
  for tab in (page, other):
    tab.reload()
    stored = tab.evaluate('[...chats.values()].map((x) => Object.values(x.nodes))')
    texts = [one['content'] for one in stored[0]]
    assert len(stored) == 1 and len(texts) == 6
    assert {'start', 'slow 25', 'from the first tab'} < set(texts)
    assert [text for text in texts if text.endswith('word24 ')]
  other.click('nav .remove')
  page.wait_for_selector('.empty')  # deleted there, so it is gone here
  assert page.evaluate('keysOf(CHAT).length') == 0


def test_without_a_network_the_question_is_kept_and_asked_again(context, page, server):
  context.set_offline(True)
  assert 'You are offline' in page.inner_text('#notice')
  ask(page, 'anybody there')
  assert page.inner_text('.problem').startswith('You are offline.')
  context.set_offline(False)
  page.click('text="Try again"')
  ended(page)
  assert answers(page) == ['small heard anybody there with None']
  assert page.inner_text('#notice') == ''


def test_what_went_wrong_is_one_line(page, server):
  for way, said in (
    ('busy', 'The server is busy: the queue is full. Wait 3 s.'),
    ('long', 'The context is full: this model has 512 positions.'),
    ('cut', 'The connection ended before the answer did.'),
    ('broken', 'The server has failed: the engine failed'),
  ):
    ask(page, f'{way} please')
    problem = page.locator('article').last.locator('.problem')
    assert problem.inner_text().startswith(said)
    before, shown = len(server.asked), page.locator('article').count()
    problem.locator('text="Try again"').click()
    until(lambda before=before: len(server.asked) == before + 1)
    ended(page)
    assert page.locator('article').count() == shown
  ask(page, 'full please')
  assert 'The context is full.' in page.locator('article').last.inner_text()


def test_hostile_answers_are_text(context, page, server):
  asked = []
  page.on('request', lambda request: asked.append(request.url))
  title = page.title()
  ask(page, 'hostile')
  assert all(url == server.url + 'v1/chat/completions' for url in asked)
  assert page.title() not in (title, '1', '2') and page.title() == 'hostile · chat'
  article = page.locator('article .text')
  assert article.locator('script, img, b, textarea').count() == 0
  links = article.locator('a')
  hrefs = links.evaluate_all('all => all.map(x => x.href)')
  assert hrefs == ['https://evil.example/x', 'https://evil.example/pixel.png']
  assert links.all_inner_texts()[0] == 'https://bank.example (evil.example)'
  assert links.first.get_attribute('rel') == 'noopener noreferrer nofollow'
  shown = article.inner_text()
  assert '[bank](javascript:alert(1))' in shown and '<script>document.title = 2</script>' in shown
  assert '\\u202egnp.exe' in shown and 'hidden\\u200btext ␛[2J' in shown
  assert not set('\u202e\u200b\x1b') & set(page.content())
  stored = page.evaluate('path(current)[1].content')
  assert stored == HOSTILE  # what was said is kept as it was
  ask(page, 'say ' + json.dumps('*' * 3000 + '[' * 3000 + '`' * 3000 + 'x' * 200_000))
  assert len(answers(page)[1]) == 209_000


def test_hidden_characters_are_shown_as_the_package_shows_them(page):
  england = ''.join(chr(0xE0000 + ord(c)) for c in 'gbeng\x7f')
  texts = [
    *('a\u202eb\x1b[0m\x7f\x9b\ud800', '\u200d', '#\ufe0f', 'line\ttab\nend\r', 'ᠠ\u180b a\u180b'),
    '👩\u200d🔬 می\u200cخواهم 1\ufe0f\u20e3 ❤\ufe0f ☎\ufe0e क्\u200dष',
    'a\u200db\u200c\ufe0f',
    f'\U0001f3f4{england} {england}',
    '∩\ufe00 葛\ufe00 a\ufe00',
    '\U0001f469\U0001f3fd\u200d\U0001f4bb',
    '\u2028\u2066x\u2069\xad\ufeff',
  ]
  assert page.evaluate('texts => texts.map(visible)', texts) == [*map(visible, texts)]


def test_markdown_becomes_elements(page, server):
  text = (
    '# Title\n\none **bold** and *slanted* and `x < y` and 2*3*4 snake_case_name\n\n1. a\n2. b\n'
    '   - c\n\n> q\n\n```python\nif x:\n  pass\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n'
    '[site](https://a.example/x) https://b.example/y.'
  )
  ask(page, 'say ' + json.dumps(text))
  place = page.locator('article .text')
  count = lambda selector: place.locator(selector).count()
  assert place.locator('h1').inner_text() == 'Title'
  assert place.locator('strong').all_inner_texts() == ['bold']
  assert place.locator('em').all_inner_texts() == ['slanted']
  assert count('ol > li') == 2 and count('ol ul > li') == 1 and count('blockquote') == 1
  assert place.locator('pre code').text_content() == 'if x:\n  pass'
  assert place.locator('td').all_inner_texts() == ['1', '2']
  assert '2*3*4 snake_case_name' in place.inner_text()
  assert place.locator('a').evaluate_all('all => all.map(x => x.href)')[1] == 'https://b.example/y'
  page.context.grant_permissions(['clipboard-read', 'clipboard-write'])
  page.click('[aria-label="Copy code"]')
  assert page.evaluate('navigator.clipboard.readText()') == 'if x:\n  pass'


def test_a_stream_in_pieces_with_pings_and_every_end_of_line(page, server):
  ask(page, 'split')
  assert answers(page) == ['naïve 日本 👩‍🔬']
  assert page.locator('.problem').count() == 0


def test_thoughts_are_folded_and_calls_of_tools_are_answered(page, server):
  ask(page, 'think hard')
  assert page.inner_text('details summary') == 'Thought'
  assert not page.is_visible('details > div')
  page.click('summary')
  assert page.inner_text('details > div') == 'First I think.'
  page.click('#settings')
  page.fill('#tools', '[{"type": "function", "function": {"name": "add"}}]')
  page.keyboard.press('Tab')
  page.keyboard.press('Escape')
  ask(page, 'tool now')
  assert server.asked[1]['tools'][0]['function']['name'] == 'add'
  assert 'Calls add' in page.inner_text('.call') and '"b": 2' in page.inner_text('.call pre')
  page.fill('[aria-label="Result of add"]', '3')
  page.click('text="Give results"')
  ended(page)
  called, result = server.asked[2]['messages'][-2:]
  assert called['content'] is None
  assert called['tool_calls'][0]['function'] == {'name': 'add', 'arguments': '{"a": 1, "b": 2}'}
  assert result == {'role': 'tool', 'content': '3', 'tool_call_id': 'call_1'}
  assert page.locator('.call pre').all_inner_texts()[-1] == '3'


def test_tokens_show_their_surprise(page, server):
  page.click('#tokens')
  ask(page, 'hello')
  assert server.asked[0]['logprobs'] and server.asked[0]['top_logprobs'] == 5
  tokens = page.locator('.tokens span')
  assert tokens.count() == 8 and tokens.nth(1).inner_text() == '<0xE6><0x97>'
  title = tokens.first.get_attribute('title')
  assert title == '“small ”: 3.00 bits, p = 0.13; likeliest: “other” 0.61'  # -log2 e^-2.079
  heat = tokens.evaluate_all('all => all.slice(0, 2).map(x => x.style.getPropertyValue("--heat"))')
  assert heat == ['0.37', '0.02']
  page.focus('.tokens')
  page.keyboard.press('ArrowRight')
  assert page.inner_text('.detail') == title
  page.click('#tokens')
  assert page.locator('.tokens').count() == 0


def test_two_models_answer_side_by_side(page, server):
  page.select_option('#beside', 'large')
  ask(page, 'hello')
  assert sorted(body['model'] for body in server.asked) == ['large', 'small']
  assert answers(page) == ['small heard hello with None', 'large heard hello with None']
  boxes = places(page)
  assert boxes[0]['y'] == boxes[1]['y'] and boxes[0]['x'] + boxes[0]['width'] <= boxes[1]['x']
  ask(page, 'more')
  for body in server.asked[2:]:  # each goes on with its own answer
    assert roles(body)[1] == ('assistant', f'{body["model"]} heard hello with None')
  page.locator('text="Go on with this"').last.click()  # until one is picked
  ask(page, 'again')
  for body in server.asked[4:]:
    own, picked = (text for role, text in roles(body) if role == 'assistant')
    assert own == f'{body["model"]} heard hello with None'
    assert picked == 'large heard more with None'


def test_feedback_is_off_until_it_is_turned_on(page, server):
  ask(page, 'hello')
  page.click('text=Regenerate')
  ended(page)
  page.click('text="Good"')
  assert page.is_visible('#options') and not page.is_checked('#consent')
  assert 'Off: nothing you do here is kept by the server.' in page.inner_text('#consent-about')
  page.keyboard.press('Escape')
  ask(page, 'more')
  assert server.events == {}


def test_a_thumb_can_be_taken_back(page, server):
  consent(page)
  ask(page, 'hello')
  page.click('text="Good"')
  page.click('text="Take back"')
  until(lambda: len(server.events) == 2)
  assert [event['value']['grade'] for event in server.events.values()] == [1, 0]
  assert page.locator('[aria-pressed=true]:text("Good")').count() == 0
  page.reload()
  page.wait_for_selector('text="Good"')
  assert page.locator('[aria-pressed=true]:text("Good")').count() == 0
  assert page.locator('text="Take back"').count() == 0


def test_events_have_all_that_training_needs(page, server):
  consent(page)
  page.click('#settings')
  page.fill('#system', 'Be kind.')
  page.focus('#temperature')
  page.keyboard.type('0.5')
  page.keyboard.press('Escape')
  ask(page, 'hello')
  page.click('text="Bad"')
  page.check('text="made up"')
  page.fill('[aria-label=Comment]', 'no such person')
  page.click('text="Send reasons"')
  until(lambda: len(server.events) == 2)
  first, second = server.events.values()
  assert first['value'] == {'act': 'thumb', 'grade': -1, 'tags': [], 'comment': ''}
  assert second['value']['tags'] == ['made up'] and second['value']['comment'] == 'no such person'
  assert roles(second) == [('system', 'Be kind.'), ('user', 'hello')]
  assert second['answer']['text'] == 'small heard hello with None'
  assert second['answer']['completion'] == 'chatcmpl-1' and second['item'] == second['answer']['id']
  assert second['sampling'] == {'temperature': 0.5} and second['model'] == 'small'
  assert second['turn'] == 0 and first['client'] != second['client'] and len(second['page']) == 8
  assert first['conversation'] == second['conversation'] and len(first['annotator']) == 16

  page.click('text="Correct"')
  page.keyboard.press('Control+a')
  page.keyboard.type('Better words')
  page.keyboard.press('Control+Enter')
  until(lambda: len(server.events) == 3)
  edit = list(server.events.values())[2]
  assert edit['value'] == {'act': 'edit', 'text': 'Better words'}
  assert edit['answer']['text'] == 'small heard hello with None'
  ask(page, 'again')
  assert roles(server.asked[-1])[2] == ('assistant', 'Better words')

  page.locator('text=Regenerate').last.click()
  ended(page)
  ask(page, 'third')
  until(lambda: len(server.events) == 4)
  kept = list(server.events.values())[3]
  value = kept['value']
  assert value['act'] == 'regenerate' and kept['turn'] == 1 and len(value['shown']) == 2
  assert value['kept'] == value['shown'][1] == kept['answer']['id'] != kept['item']
  assert [draft['id'] for draft in kept['answer']['others']] == value['shown'][:1]

  page.select_option('#beside', 'large')
  ask(page, 'fourth')
  page.locator('text="Go on with this"').last.click()
  until(lambda: len(server.events) == 5)
  picked = list(server.events.values())[4]
  assert picked['value']['act'] == 'pick' and picked['model'] == 'large'
  assert picked['value']['shown'].index(picked['value']['kept']) == 1
  (other,) = picked['answer']['others']
  assert other['model'] == 'small' and other['text'] == 'small heard fourth with None'
  stored = list(server.feedback.events())  # in the server's own form
  assert [event['value'] for event in stored] == [
    event['value'] for event in server.events.values()
  ]
  assert stored[4]['answer'] == picked['answer'] and stored[4]['fingerprint'] == 'f00'
  files, facts, _ = export(stored)
  assert facts['rows'] == {'preferences': 2, 'kto': 2, 'sft': 1, 'questions': 1}
  assert facts['dropped']['preferences'] == {'identical answers': 1}  # made anew, and the same
  rows = [json.loads(line) for line in files['preferences.jsonl'].splitlines()]
  # The draft that was kept, and the correction of what got a thumb down.
  assert sorted(row['margin'] for row in rows) == [1.0, 3.0]
  corrected = json.loads(files['sft.jsonl'])['messages']
  assert [(one['role'], one['content']) for one in corrected] == [
    ('system', 'Be kind.'),
    ('user', 'hello'),
    ('assistant', 'Better words'),
  ]

  page.click('nav .remove')
  until(lambda: not list(server.feedback.events()))


def test_events_wait_for_the_server_and_are_kept_once(context, page, server):
  consent(page)
  ask(page, 'hello')
  server.refuse = 1  # kept, and the answer is an error
  page.click('text="Good"')
  page.wait_for_selector('text=Feedback could not be sent yet.')
  context.set_offline(True)
  page.click('text="Bad"')
  context.set_offline(False)
  until(lambda: len(server.events) == 2)
  assert server.repeated == 1
  assert [event['value']['grade'] for event in server.events.values()] == [1, -1]
  until(lambda: page.evaluate('keysOf(EVENT).length') == 0)


def test_an_api_key_is_asked_for_and_never_stored(context, server):
  server.key = 'a-key-of-16-letters'
  page = context.new_page()
  page.goto(server.url)
  page.wait_for_selector('#options[open]')
  assert 'wants an API key' in page.inner_text('#notice')
  page.fill('#key', server.key)
  page.keyboard.press('Enter')
  page.wait_for_selector('#model option', state='attached')
  ask(page, 'hello')
  assert answers(page) == ['small heard hello with None']
  assert server.key not in json.dumps(page.evaluate('({...localStorage})'))
  assert page.evaluate('sessionStorage.getItem("llm_jax.key")') == server.key


def test_a_browser_without_room_says_so(page, server):
  page.evaluate("""for (let size = 2 ** 22; size >= 1; size /= 2) {
    try { for (let i = 0; ; i++) localStorage.setItem(`x${size}.${i}`, 'x'.repeat(size)); } catch {}
  }""")
  ask(page, 'hello')
  assert answers(page) == ['small heard hello with None']
  assert 'The browser has no room left' in page.inner_text('#notice')


# Pairs of colours with a contrast below 4.5, the least that WCAG 2 asks of text.
CONTRASTS = """(() => {
  const light = (name) => {
    const one = el('p');
    one.style.color = `var(--${name})`;
    document.body.append(one);
    const rgb = getComputedStyle(one).color.match(/[0-9.]+/g).slice(0, 3).map((x) => x / 255);
    one.remove();
    const [r, g, b] = rgb.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return ['ink back', 'ink soft', 'ink mine', 'dim back', 'dim soft', 'accent back', 'on accent',
    'bad back'].filter((pair) => {
      const [low, high] = pair.split(' ').map(light).sort((a, b) => a - b);
      return (high + 0.05) / (low + 0.05) < 4.5;
    });
})()"""


def test_a_phone_and_the_dark(browser, server):
  context = browser.new_context(viewport={'width': 360, 'height': 700}, color_scheme='dark')
  context.faults = []
  page = opened(context, server)
  back = lambda: page.evaluate('getComputedStyle(document.body).backgroundColor')
  assert back() == 'rgb(21, 23, 28)'
  page.click('#theme')
  assert back() == 'rgb(255, 255, 255)'
  page.reload()
  assert back() == 'rgb(255, 255, 255)'
  for colours in (back, lambda: page.click('#theme')):
    colours()
    assert page.evaluate(CONTRASTS) == []
  page.select_option('#beside', 'large')
  ask(
    page,
    'say '
    + json.dumps('x' * 300 + '\n\n```\n' + 'y' * 300 + '\n```\n\n|' + 'z' * 90 + '|b|\n|-|-|'),
  )
  assert page.evaluate('document.documentElement.scrollWidth') == 360
  boxes = places(page)
  assert boxes[0]['y'] + boxes[0]['height'] <= boxes[1]['y']  # below each other
  assert not page.is_visible('nav')
  page.click('#menu')
  assert page.is_visible('nav') and page.evaluate('document.activeElement.id') == 'new'
  page.keyboard.press('Escape')
  assert not page.is_visible('nav') and page.evaluate('document.activeElement.id') == 'menu'
  page.click('#settings')
  assert page.locator('#options').bounding_box()['width'] <= 360
  assert context.faults == []
  context.close()


def test_keyboard_and_screen_reader(page, server):
  page.focus('#ask')
  page.keyboard.type('two')
  page.keyboard.press('Shift+Enter')
  page.keyboard.type('lines')
  assert page.input_value('#ask') == 'two\nlines'
  page.keyboard.press('Enter')
  ended(page)
  assert server.asked[0]['messages'][0]['content'] == 'two\nlines'
  assert page.inner_text('#told') == 'small heard two lines with None'
  page.focus('.skip')
  page.keyboard.press('Enter')
  assert page.evaluate('document.activeElement.id') == 'ask'
  page.click('text=Regenerate')
  ended(page)
  page.focus('text=Regenerate')
  page.keyboard.press('Enter')
  ended(page)
  assert page.evaluate('document.activeElement.id') == 'log'  # its button went with the old draft
  page.evaluate('document.activeElement.blur()')
  reached = set()
  named = '(x => x.getAttribute("aria-label") || x.id || x.innerText)(document.activeElement)'
  for _ in range(40):
    page.keyboard.press('Tab')
    reached.add(page.evaluate(named))
  assert reached >= {
    'Model', 'Second model', 'tokens', 'theme', 'settings', 'new', 'Conversation',
    'Edit', 'Copy', 'Regenerate', 'Correct', 'Good', 'Bad', 'Your message', 'send',
  }  # fmt: skip
