"""The browser that the tests of this folder share."""

import shutil

import pytest

BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None
)


@pytest.fixture(
  scope='module'
)  # its loop runs until it ends, and tests of other files have their own
def browser():
  playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
  if BROWSER is None:
    pytest.skip('no Chromium or Chrome on this machine')
  with playwright.sync_playwright() as made:
    yield made.chromium.launch(executable_path=BROWSER, args=['--no-sandbox'])
