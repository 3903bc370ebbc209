"""Makes the pictures of the live page in docs/images, with the browser of the tests.

They show `rustygate demo --traffic` after it has run for a while.
"""

import argparse
import asyncio
import base64
import sys
import tempfile
from pathlib import Path
from threading import Thread
from typing import Any

from playwright.async_api import Browser, ViewportSize

from tests.support.browser import NO_CHROMIUM, Visit, find_chromium, running_chromium
from tests.support.process import Process

IMAGES = Path(__file__).parents[1] / "docs/images"

SCHEMES = ("light", "dark")

WINDOW: ViewportSize = {"width": 1280, "height": 1080}

# For sharp pictures on sharp screens.
SCALE = 1.5

# Of WebP, from 0 to 100.
QUALITY = 60

CLIP: dict[str, Any] = {"x": 0, "y": 0, "scale": SCALE, **WINDOW}
PICTURE: dict[str, Any] = {"format": "webp", "quality": QUALITY, "clip": CLIP}

# What the demo's gate is limited to, so that all kinds of limits are shown.
LIMITS: dict[str, Any] = {"TOKENS_PER_MINUTE": "60000", "CONCURRENCY_LIMIT": "30"}


async def _take(browser: Browser, url: str, scheme: str, seconds: float) -> Path:
    visit = await Visit.open(browser, url, viewport=WINDOW, color_scheme=scheme)
    await asyncio.sleep(seconds)
    session = await visit.context.new_cdp_session(visit.page)
    taken = await session.send("Page.captureScreenshot", PICTURE)
    path = IMAGES / f"live-page-{scheme}.webp"
    path.write_bytes(base64.b64decode(taken["data"]))
    await visit.check()
    await visit.context.close()
    return path


async def _take_all(program: str, url: str, seconds: float) -> None:
    async with running_chromium(program) as browser:
        taking = [_take(browser, url, scheme, seconds) for scheme in SCHEMES]
        for path in await asyncio.gather(*taking):
            print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="how long the demo runs first")
    seconds = parser.parse_args().seconds
    program = find_chromium()
    if program is None:
        print(NO_CHROMIUM, file=sys.stderr)
        return 1
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        demo = Process("demo", "--traffic", cwd=Path(directory), PORT="0", **LIMITS)
        try:
            url = demo.wait_for_line(demo.stdout, r"in a browser: (\S+)$")[1]
            # The demo stops when the pipe that it prints to is full.
            Thread(target=demo.stdout.read, daemon=True).start()
            asyncio.run(_take_all(program, url, seconds))
        finally:
            demo.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
