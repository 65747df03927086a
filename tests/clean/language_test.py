"""The language of a text: by script where that is enough, by the model where it is not."""

import gzip
import json
from pathlib import Path

import pytest

from llm_jax.clean import language
from llm_jax.clean.page import Drop, Page
from llm_jax.types import BadInput

# The beginnings of stories of the African Storybook, CC BY.
FILE = Path(__file__).parents[1] / 'fixtures' / 'web' / 'languages.jsonl.gz'
STORIES = [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).splitlines()]
ENGLISH = 'The river rose again in spring and the people of the valley moved to the hills.'


@pytest.mark.parametrize(('length', 'least'), [(20, 0.84), (40, 0.945), (80, 0.97), (160, 0.99)])
def test_share_of_stories_that_are_named_rightly(length, least):
  """171 stories in 17 languages, most of them of Africa."""
  right = sum(language.identify(story['text'][:length])[0] == story['lang'] for story in STORIES)
  assert right / len(STORIES) >= least


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('日本語の文章です。これは漢字とかなが混ざっています。', 'ja'),
    ('インターネットデータセンター、クラウドサービス', 'ja'),
    ('이 문장은 한국어로 쓰여 있습니다. 한자 漢字도 있다.', 'ko'),
    ('这一篇文章讲的是一座桥。它建于一千九百年，长达五百米。', 'zh'),
    ('這一篇文章講的是一座橋。它建於一千九百年，長達五百公尺。', 'zh'),
    ('ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอน', 'th'),
    ('עברית היא שפה שמית המדוברת בישראל', 'he'),
    ('Αυτό το κείμενο είναι γραμμένο στα ελληνικά', 'el'),
    ('Этот текст написан на русском языке довольно давно', 'ru'),
    ('Цей текст написано українською мовою дуже давно, ще взимку', 'uk'),
    ('هذا نص باللغة العربية وهو طويل بما يكفي', 'ar'),
    ('यह पाठ हिन्दी में लिखा गया है और काफी लंबा है', 'hi'),
    ('THIS IS A SENTENCE OF ENGLISH THAT SOMEBODY WROTE IN CAPITALS', 'en'),
    ('Wikipedia 維基百科是一個自由的百科全書，由全世界的人編寫', 'zh'),
    ('1, 2, 3 -- !', 'und'),
    ('', 'und'),
  ],
)
def test_scripts(text, expected):
  assert language.identify(text)[0] == expected


def test_limits():
  rule = language.make(keep=('en', 'zh'))
  page = lambda text: Page('', text, str.split)
  kept = rule(page(ENGLISH))
  assert isinstance(kept, Page) and kept.meta['language'] == 'en' and kept.text == ENGLISH
  for text, reason in (
    (ENGLISH[:22], 'unknown_language'),
    ('1 2 3', 'unknown_language'),
    ('Этот текст написан на русском языке', 'other_language'),
    ('한국어' * 10 + 'abcdefghijklmnop ' * 1, 'other_language'),
    ('的' * 30 + ' abcdefghij' * 2, 'unsure_language'),
  ):
    result = rule(page(text))
    assert isinstance(result, Drop) and result.reason == reason, (text, result)
    assert isinstance(result.values['language'], str)
  assert isinstance(language.make(keep=())(page('한국어로 쓰여 있습니다 ' * 3)), Page)


def test_line_breaks_and_case_change_nothing():
  for story in STORIES[::9]:
    expected = language.identify(story['text'].lower())
    assert language.identify(story['text'].replace(' ', '\n').upper().replace('İ', 'i')) == expected


def test_of_a_long_text_three_parts_are_read():
  name, _, letters = language.identify(ENGLISH * 100_000)
  assert name == 'en' and letters < 8000


def test_a_language_that_nobody_can_name():
  with pytest.raises(BadInput, match=r'keep tlh; known are .* en '):
    language.make(keep=('en', 'tlh'))
