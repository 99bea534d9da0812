"""The page, as text and in a real browser: ten thousand samples, hostile answers, keys, both colour schemes."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, chromium_paths
from layouts import write_picture
from test_report import sample, scores

from vlmamba.eval import gallery
from vlmamba.eval.gallery import as_html, script_json
from vlmamba.eval.plot import bar_plot
from vlmamba.eval.report import make_report
from vlmamba.eval.runs import read_runs
from vlmamba.eval.score import write_scores

NUM_SAMPLES = 10_000
HOSTILE = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1><!--\u2028&amp;"
DOWN, END, HOME = "\ue015", "\ue010", "\ue011"


def page_of(*runs: Path, diff: bool = False) -> str:
    return as_html(make_report(read_runs(runs), diff=diff))


def embedded(page: str, name: str) -> object:
    """The JSON of a script element, as a browser finds it: up to the first end tag."""
    found = re.search(
        rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL
    )
    assert found
    return json.loads(found[1])


def write_pope(folder: Path, num_samples: int, every_wrong: int) -> Path:
    """POPE-like samples of three categories, each `every_wrong`th answered wrongly, on five pictures."""
    samples = [
        sample(
            n,
            float(n % every_wrong != 0),
            "no" if n % every_wrong == 0 else "yes",
            category=("random", "popular", "adversarial")[n % 3],
            prompt=f"Is there object{n} in the image?\nAnswer the question using a single word or phrase.",
            rule="yes unless no/not" if n % 2 else "other rule",
            raw=f"Answer {n} {HOSTILE}" if n == 7 else "No." if n % every_wrong == 0 else "Yes.",
        )
        for n in range(num_samples)
    ]
    pictures = {str(n): f"../../pictures/{n % 5}.png" for n in range(num_samples)}
    write_scores(scores("pope", samples), folder / "pope", pictures)
    for n in range(5):
        write_picture(folder.parent / "pictures" / f"{n}.png", 50 * n)
    return folder


def test_markup_in_answers_stays_text(tmp_path: Path) -> None:
    page = page_of(write_pope(tmp_path / "run", 10, 3))
    assert "<img src=x" not in page
    assert page.count("</script>") == 3
    [hostile] = [item for item in embedded(page, "data")["items"] if item[1] == "7"]
    assert hostile[6][0][0] == f"Answer 7 {HOSTILE}"
    assert json.loads(script_json(HOSTILE)) == HOSTILE
    assert not set("<>&\u2028") & set(script_json(HOSTILE))


def test_a_runs_name_cannot_hold_markup(tmp_path: Path) -> None:
    page = page_of(write_pope(tmp_path / "<b>x", 10, 3), write_pope(tmp_path / "{{data}}", 10, 4))
    assert "<b>x" not in page
    assert page.count('id="data"') == 1
    assert "{{data}}</title>" in page


class Fetches(HTMLParser):
    """Whatever in a page's markup a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "srcset", "href", "data", "action") and not (value or "").startswith(
                "#"
            ):
                self.found.append(f"{tag} {name}={value}")


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = page_of(write_pope(tmp_path / "run", 10, 3))
    parser = Fetches()
    parser.feed(page)
    assert parser.found == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", page)
    assert "default-src 'none'" in page


def test_thumbnails_are_embedded_once_and_bounded(tmp_path: Path, monkeypatch) -> None:
    run = write_pope(tmp_path / "run", 20, 3)
    page = page_of(run)
    pictures = embedded(page, "pictures")
    assert len(pictures) == 5
    assert all(uri.startswith("data:image/webp;base64,") for uri in pictures)
    by_id = {item[1]: item[5] for item in embedded(page, "data")["items"]}
    assert by_id["0"] == by_id["5"] == by_id["10"] != by_id["1"]
    assert "pictures are not shown" not in page

    monkeypatch.setattr(gallery, "MAX_PICTURE_BYTES", 2 * len(pictures[0]) + 10)
    page = page_of(run)
    assert [bool(uri) for uri in embedded(page, "pictures")] == [True, True, False, False, False]
    assert "3 of 5 pictures are not shown" in page


def test_pictures_that_are_gone_are_counted(tmp_path: Path) -> None:
    run = write_pope(tmp_path / "run", 20, 3)
    (tmp_path / "pictures" / "1.png").unlink()
    (tmp_path / "pictures" / "2.png").write_bytes(b"not a picture")
    page = page_of(run)
    assert "2 of 5 pictures are not shown" in page
    assert sum(map(bool, embedded(page, "pictures"))) == 3


def test_the_plot_has_a_bar_a_whisker_and_the_papers_mark(tmp_path: Path) -> None:
    mme = scores("mme", [sample("a#1", 1.0)], value=1000.0, interval=(500.0, 1500.0))
    write_scores(mme, tmp_path / "run" / "mme")
    svg = bar_plot(read_runs([tmp_path / "run"]))
    [bar] = re.findall(r'<rect class="bar run-0" x="76" y="[\d.]+" width="([\d.]+)"', svg)
    assert float(bar) == 200  # half of the scale of 2,000
    assert 'd="M176.0' in svg
    assert "H376.0" in svg
    assert "MME, VL-Mamba in the paper: 1369.6" in svg


needs_chromium = pytest.mark.skipif(
    chromium_paths() is None, reason="chromium and chromedriver are not installed"
)


@pytest.fixture(scope="module")
def big_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over ten thousand samples, the second better than the first."""
    root = tmp_path_factory.mktemp("big")
    runs = [write_pope(root / name, NUM_SAMPLES, wrong) for name, wrong in (("a", 4), ("b", 5))]
    page = root / "page.html"
    page.write_text(page_of(*runs, diff=True), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def browser(big_page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as window:
        window.show_as("light", 1280, 860)
        yield window


@pytest.fixture
def window(browser: Browser, big_page: Path) -> Browser:
    browser.complaints()
    browser.open(big_page)
    return browser


COUNT = "return document.getElementById('count').textContent"
SET = """
const node = document.getElementById(arguments[0]);
const start = performance.now();
node.value = arguments[1];
node.dispatchEvent(new Event(node.tagName === "SELECT" ? "change" : "input"));
void document.body.offsetHeight;
return [document.getElementById("count").textContent, performance.now() - start];
"""
SCROLL = """
const list = document.getElementById("list");
const times = [], rows = [];
return new Promise((done) => {
  let last = performance.now(), step = 0;
  function frame(now) {
    times.push(now - last); last = now;
    rows.push(list.querySelectorAll(".row").length);
    if (step++ === 60) return done({times, rows, end: list.scrollTop, height: list.scrollHeight});
    list.scrollTop = step / 60 * list.scrollHeight;
    requestAnimationFrame(frame);
  }
  requestAnimationFrame(frame);
});
"""


@needs_chromium
def test_ten_thousand_samples_open_and_filter_quickly(window: Browser) -> None:
    loaded = window.run("return performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < loaded < 5000
    assert window.run(COUNT) == "10,000 of 10,000"
    for name, value, expected in [
        ("search", "object77", 111),  # object77, 770-779 and 7700-7799
        ("search", "OBJECT77 no.", 44),  # words in any place: those that a or b answered no
        ("search", "nothing like it", 0),
        ("search", "", 10_000),
        ("category", "popular", 3333),
        ("category", "", 10_000),
        ("run", "1", 10_000),
        ("verdict", "wrong", 2000),
        ("run", "0", 2500),
        ("verdict", "", 10_000),
        ("rule", "other rule", 5000),
        ("rule", "", 10_000),
        ("change", "gained", 2000),
        ("change", "lost", 1500),
        ("change", "reworded", 0),
    ]:
        count, milliseconds = window.run(SET, name, value)
        assert count == f"{expected:,} of 10,000", (name, value)
        assert milliseconds < 500
    assert window.complaints() == []


@needs_chromium
def test_scrolling_draws_only_the_rows_in_view(window: Browser) -> None:
    seen = window.run(SCROLL)
    assert max(seen["rows"]) < 60
    assert min(seen["rows"]) > 5
    assert seen["height"] == NUM_SAMPLES * 64
    assert seen["end"] > NUM_SAMPLES * 64 - 1000
    assert sorted(seen["times"])[len(seen["times"]) // 2] < 100
    last = "return [...document.querySelectorAll('.row')].at(-1).textContent"
    assert "object9999" in window.run(last)


@needs_chromium
def test_keys_choose_samples(window: Browser) -> None:
    window.run("document.getElementById('list').focus()")
    chosen = (
        "const list = document.getElementById('list');"
        "const row = document.getElementById(list.getAttribute('aria-activedescendant'));"
        "const box = list.getBoundingClientRect(), own = row.getBoundingClientRect();"
        "return [row.getAttribute('aria-selected'), row.getAttribute('aria-posinset'),"
        " own.top >= box.top - 1 && own.bottom <= box.bottom + 1,"
        " document.querySelector('#detail h3').textContent]"
    )
    assert window.run(chosen) == ["true", "1", True, "POPE 0"]
    window.press(DOWN, DOWN)
    assert window.run(chosen) == ["true", "3", True, "POPE 2"]
    window.press(END)
    assert window.run(chosen) == ["true", "10000", True, "POPE 9999"]
    window.press(HOME)
    assert window.run(chosen) == ["true", "1", True, "POPE 0"]


@needs_chromium
def test_a_hostile_answer_is_shown_as_it_is(window: Browser) -> None:
    window.run(SET, "search", "object7 answer")
    shown = window.run("return document.querySelector('#detail .raw').textContent")
    assert shown == f"Answer 7 {HOSTILE}"
    assert window.run(
        "return [window.hit ?? null, document.querySelectorAll('#detail img').length]"
    ) == [
        None,
        1,
    ]
    size = "const image = document.querySelector('#detail img'); return image.decode().then(() => image.naturalWidth)"
    assert window.run(size) == 8
    assert window.complaints() == []


CONTRAST = """
const luminance = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255)
    .map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = (node) => {
  const colour = getComputedStyle(node).backgroundColor;
  return colour !== "rgba(0, 0, 0, 0)" || !node.parentElement ? colour : back(node.parentElement);
};
const low = [];
const words = "h1,a,td,th,summary,label,select,button,.said,.mark,.place,.question,dt,dd,#count";
for (const node of document.querySelectorAll(words)) {
  if (!node.checkVisibility() || node.matches(".skip")) continue;
  const pair = [luminance(getComputedStyle(node).color), luminance(back(node))].sort((a, b) => b - a);
  const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
  if (ratio < 4.5) low.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`);
}
return [low, document.documentElement.scrollWidth <= innerWidth];
"""


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_schemes_can_be_read_at_any_width(window: Browser, scheme: str, width: int) -> None:
    window.show_as(scheme, width, 860)
    too_faint, fits = window.run(CONTRAST)
    window.show_as("light", 1280, 860)
    assert too_faint == []
    assert fits


@needs_chromium
def test_every_control_has_a_name(window: Browser) -> None:
    nameless = window.run(
        "return [...document.querySelectorAll('input,select,button')]"
        ".filter((node) => !(node.labels?.length || node.textContent.trim())).map((node) => node.id)"
    )
    assert nameless == []
    roles = window.run(
        "return [...new Set([...document.querySelectorAll('#tall > *')].map((n) => n.role))]"
    )
    assert roles == ["option"]
