"""The page in a browser without a window: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vlcore.dataset import ReadOptions, read_rows

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
expect = sync_api.expect


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: sync_api.Browser, address: str) -> Iterator[Callable[[], sync_api.Page]]:
    """Opens the page in a browser session of its own; what it asks of other servers is a failure."""
    contexts, asked = [], []

    def open_one() -> sync_api.Page:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(f"error: {error}"))
        page.set_default_timeout(20_000)
        page.goto(address)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        page.wait_for_function("() => window.did_handshake")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture
def page(open_page: Callable[[], sync_api.Page]) -> sync_api.Page:
    return open_page()


def add(page: sync_api.Page, *files: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add pictures").click()
    chooser.value.set_files(files)


def ask(page: sync_api.Page, text: str) -> None:
    page.get_by_label("Question").fill(text)
    page.get_by_label("Question").press("Enter")


def answers(page: sync_api.Page) -> sync_api.Locator:
    return page.locator(".answer .said")


def finished(page: sync_api.Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(1)


def export(page: sync_api.Page) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "talk.jsonl"
    return Path(download.value.path())


def test_model_answers_a_question_with_pictures_and_the_talk_is_a_row_to_train_on(page, make_picture, tmp_path):
    add(page, make_picture(), make_picture("blue.png", colour="blue"))
    expect(page.locator(".waiting img")).to_have_count(2)
    page.get_by_label("Longest answer in tokens").fill("6")
    ask(page, "What is this?")
    finished(page)
    expect(page.locator(".question img")).to_have_count(2)
    expect(page.locator(".waiting img")).to_have_count(0)
    file = tmp_path / "talk.jsonl"
    file.write_bytes(export(page).read_bytes())
    (row,) = read_rows(str(file), ReadOptions())
    assert [message.role for message in row.messages] == ["user", "assistant"]
    assert [type(part).__name__ for part in row.messages[0].content] == ["Image", "Image", "Text"]
    assert row.messages[0].text == "What is this?"
    assert row.messages[1].text == answers(page).inner_text()


def test_answer_arrives_piece_by_piece_and_stops_where_it_is_stopped(page):
    ask(page, "count")
    expect(answers(page)).to_have_text(re.compile(r"^1 2 3\b"))
    seen = answers(page).inner_text()
    expect(answers(page)).not_to_have_text(seen)
    page.get_by_role("button", name="Stop").click()
    finished(page)
    said = answers(page).inner_text().split()
    assert said == [str(number) for number in range(1, len(said) + 1)]
    row = json.loads(export(page).read_text("utf8"))
    assert row["messages"][1]["content"][0]["text"].split() == said


def test_regenerate_answers_the_last_question_anew(page):
    ask(page, "count")
    expect(answers(page)).to_have_text(re.compile(r"\b3\b"))
    page.get_by_role("button", name="Stop").click()
    finished(page)
    first = len(answers(page).inner_text().split())
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(".answer:visible .said")).to_have_text(re.compile(rf"\b{first + 3}\b"))
    page.get_by_role("button", name="Stop").click()
    finished(page)
    expect(answers(page)).to_have_count(1)
    assert len(json.loads(export(page).read_text("utf8"))["messages"]) == 2


def test_clear_forgets_the_talk(page):
    ask(page, "say: something")
    finished(page)
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator(".bubble")).to_have_count(0)
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_role("alert")).to_contain_text(re.compile("nothing has been answered yet"))


def test_file_that_is_no_picture_is_one_line(page, tmp_path, make_picture):
    (tmp_path / "cat.png").write_text("no picture", "utf8")
    (tmp_path / "half.png").write_bytes(make_picture().read_bytes()[:200])
    for name, why in (("cat.png", "it is no PNG"), ("half.png", "it cannot be decoded")):
        add(page, tmp_path / name)
        line = page.get_by_role("alert").filter(has_text=f"image {name}: {why}")
        expect(line).to_be_visible()
    expect(page.locator(".waiting img")).to_have_count(0)


def test_picture_above_a_limit_is_one_line(page, tmp_path, make_picture):
    add(page, make_picture("large.png", (1001, 1000)))
    expect(page.get_by_role("alert").filter(has_text="1001x1000 exceeds 1000000 pixels")).to_be_visible()
    (tmp_path / "heavy.png").write_bytes(bytes(200_001))
    add(page, tmp_path / "heavy.png")
    expect(page.get_by_role("alert").filter(has_text="it exceeds 200000 bytes")).to_be_visible()


def test_picture_is_pasted_and_taken_away_again(page):
    page.evaluate("""async () => {
        const canvas = Object.assign(document.createElement("canvas"), {width: 60, height: 40});
        canvas.getContext("2d").fillRect(0, 0, 30, 30);
        const blob = await new Promise((done) => canvas.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([blob], "pasted.png", {type: "image/png"}));
        document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, cancelable: true}));
    }""")
    expect(page.get_by_alt_text("pasted.png")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.locator(".waiting img")).to_have_count(0)


def test_boxes_of_an_answer_are_drawn(page, make_picture):
    add(page, make_picture())
    expect(page.locator(".waiting img")).to_have_count(1)
    ask(page, "say: <ref>cup</ref><box>(100,200),(600,700)</box>")
    finished(page)
    picture = page.locator(".answer img.drawn")
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => [picture.naturalWidth, picture.naturalHeight]") == [320, 240]
    expect(answers(page)).to_have_text("<ref>cup</ref><box>(100,200),(600,700)</box>")


def test_answer_is_text_and_never_html(page):
    said = "<img src=x onerror=window.hit=1> <script>window.hit=1</script> **not bold** ![](http://example.org/a.png)"
    ask(page, f"say: {said}")
    finished(page)
    expect(answers(page)).to_have_text(said)
    expect(page.locator(".question .said")).to_contain_text(said)
    assert page.locator(".bubble img, .bubble script, .bubble strong").count() == 0
    assert page.evaluate("window.hit") is None


def test_two_browsers_do_not_mix(open_page):
    one, two = open_page(), open_page()
    ask(one, "count")
    expect(answers(one)).to_have_text(re.compile(r"\b2\b"))
    ask(two, "say: for the second")
    expect(answers(two)).to_have_text(re.compile("Waiting for another answer"))
    one.get_by_role("button", name="Stop").click()
    finished(one)
    finished(two)
    expect(answers(two)).to_have_text("for the second")
    expect(one.get_by_text("for the second")).to_have_count(0)
    rows = [json.loads(export(page).read_text("utf8")) for page in (one, two)]
    assert [[len(row["messages"]), row["messages"][0]["content"][0]["text"]] for row in rows] == [
        [2, "count"], [2, "say: for the second"]]


def test_closed_page_leaves_the_model_to_others(browser, address, page):
    context = browser.new_context()
    leaving = context.new_page()
    leaving.goto(address)
    leaving.wait_for_function("() => window.did_handshake")
    ask(leaving, "count")
    expect(answers(leaving)).to_have_text(re.compile(r"\b2\b"))
    context.close()
    ask(page, "say: free again")
    expect(answers(page)).to_have_text("free again", timeout=30_000)


def test_adapter_is_chosen_by_name_and_answers_otherwise(page):
    page.get_by_label("Longest answer in tokens").fill("12")
    ask(page, "What is this?")
    finished(page)
    base = answers(page).inner_text()
    page.get_by_role("banner").get_by_role("button", name="Clear").click()
    page.get_by_label("Model").click()
    page.get_by_role("option", name="tuned").click()
    ask(page, "What is this?")
    finished(page)
    expect(page.locator(".answer .who")).to_have_text("tuned")
    assert answers(page).inner_text() != base


def test_setting_that_cannot_be_is_one_line_and_the_question_stays(page):
    page.get_by_label("Longest answer in tokens").fill("0")
    ask(page, "What is this?")
    expect(page.get_by_role("alert").filter(has_text="max_new_tokens is 0, it takes at least 1")).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value("What is this?")
    expect(page.locator(".bubble")).to_have_count(0)


def test_password_opens_the_page_and_its_socket(browser, locked):
    user, _, password = "someone:a password".partition(":")
    context = browser.new_context(http_credentials={"username": user, "password": password})
    page = context.new_page()
    page.goto(locked)
    page.wait_for_function("() => window.did_handshake")
    ask(page, "say: let in")
    expect(answers(page)).to_have_text("let in")
    context.close()
