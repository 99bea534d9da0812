"""Measures the report's page in a real browser: its size, how long it takes to make, open, filter and scroll.

    python bench/report_page.py [--samples 10000] [--json results/report_page.json]

The samples are made up, POPE-like, of two runs. In the `shared` arm they are on 500 pictures, as POPE's are; in the
`distinct` arm every sample has a picture of its own. Needs Chromium and chromedriver.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from record import circumstances

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "eval"))
from browser import Browser

from vlmamba.eval.gallery import as_html
from vlmamba.eval.report import make_report
from vlmamba.eval.runs import read_runs
from vlmamba.eval.score import write_scores
from vlmamba.eval.task import Sample, Scores

SEED = 0
QUERIES = ("dog", "snowboard 12", "answer", "nothing like it", "")
OBJECTS = ("dog", "snowboard", "traffic light", "dining table")

FILTER = """
const search = document.getElementById("search");
const start = performance.now();
search.value = arguments[0];
search.dispatchEvent(new Event("input"));
void document.body.offsetHeight;
return performance.now() - start;
"""
SCROLL = """
const list = document.getElementById("list"), times = [];
return new Promise((done) => {
  let last = performance.now(), step = 0;
  function frame(now) {
    times.push(now - last); last = now;
    if (step++ === 120) return done(times);
    list.scrollTop = step / 120 * list.scrollHeight;
    requestAnimationFrame(frame);
  }
  requestAnimationFrame(frame);
});
"""


def write_pictures(folder: Path, count: int) -> None:
    """Smooth noise of 320 x 240, which compresses about as photographs do."""
    folder.mkdir()
    generator = np.random.default_rng(SEED)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")


def write_run(folder: Path, pictures: Path, num_samples: int, num_pictures: int, seed: int) -> None:
    """A run whose answers are right four times in five."""
    generator = np.random.default_rng(seed)
    samples = []
    for number, right in enumerate(generator.random(num_samples) < 0.8):
        said = "yes" if right else "no"
        prompt = f"Is there a {OBJECTS[number % 4]} in image {number}?\nAnswer with a single word."
        category = ("random", "popular", "adversarial")[number % 3]
        rule = "yes unless no/not"
        samples.append(Sample(str(number), category, prompt, said, said, "yes", float(right), rule))
    value = 100 * float(np.mean([sample.score for sample in samples]))
    interval = (value - 1, value + 1)
    scores = Scores("pope", "official", "accuracy", value, interval, {}, samples, num_samples)
    places = {str(n): str(pictures / f"{n % num_pictures}.jpg") for n in range(num_samples)}
    write_scores(scores, folder / "pope", places)


def measure(num_samples: int, num_pictures: int) -> dict[str, Any]:
    """One arm: milliseconds, and the page's bytes."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_pictures(root / "pictures", num_pictures)
        runs = [root / "before", root / "after"]
        for seed, run in enumerate(runs):
            write_run(run, root / "pictures", num_samples, num_pictures, seed)
        start = time.perf_counter()
        page = root / "page.html"
        page.write_text(as_html(make_report(read_runs(runs), diff=True)), encoding="utf-8")
        made_s = time.perf_counter() - start
        with Browser(root / "profile") as browser:
            browser.show_as("light", 1280, 860)
            opened = []
            for _ in range(3):
                browser.open(page)
                entry = "performance.getEntriesByType('navigation')[0].loadEventEnd"
                opened.append(browser.run(f"return {entry}"))
            filtered = [browser.run(FILTER, query) for _ in range(5) for query in QUERIES]
            frames = browser.run(SCROLL)
        return {
            "page_bytes": page.stat().st_size,
            "make_s": round(made_s, 2),
            "open_ms": {"median": round(median(opened), 1), "worst": round(max(opened), 1)},
            "filter_ms": {"median": round(median(filtered), 1), "worst": round(max(filtered), 1)},
            "frame_ms": {"median": round(median(frames), 1), "worst": round(max(frames), 1)},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="where to write the record")
    options = parser.parse_args()
    arms = {"shared": min(500, options.samples), "distinct": options.samples}
    record = {
        "what": "the report's HTML page in headless Chromium, two runs side by side",
        "samples": options.samples,
        **circumstances("python bench/report_page.py", SEED),
        "load_average_before": list(os.getloadavg()),
        "arms": {name: measure(options.samples, count) for name, count in arms.items()},
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
