"""The report in a real browser: headless Chromium, at the width of a phone and of a desk, where one is installed."""

import re
import shutil
import subprocess

import pytest
from picture.test_picture_report import full_record

from records.picture.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# A window of Chromium is never narrower than 500 pixels, a frame may be; the page tells the frame what was laid out.
MEASURE = """<script>
addEventListener("load", () => {
  const loaded = [...document.images].every(image => image.complete && image.naturalWidth > 0);
  const widest = document.documentElement.scrollWidth, room = document.documentElement.clientWidth;
  parent.postMessage(`laid out: ${document.images.length} images, loaded ${loaded}, ${widest} in ${room}`, "*");
});
</script>"""
FRAME = """<title>waiting</title><script>addEventListener("message", told => { document.title = told.data; });</script>
<iframe src="report.html" style="width: %dpx; height: 900px; border: 0"></iframe>"""


def laid_out(page, width, profile) -> re.Match:
    """What Chromium says of the page in a frame of this width."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME % width, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={profile}", "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *options, frame.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    found = re.search(r"<title>laid out: (\d+) images, loaded (\w+), (\d+) in (\d+)</title>", done.stdout)
    assert found, done.stdout[:2000] + done.stderr[:2000]
    return found


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; the page's HTML is tested without one")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_the_window_and_shows_every_figure(width, tmp_path):
    page = write_report([full_record(tmp_path / "record")], tmp_path / "out")
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    images, loaded, widest, room = laid_out(page, width, tmp_path / "profile").groups()
    assert int(images) >= 4 and loaded == "true"
    assert int(widest) <= int(room) <= width
