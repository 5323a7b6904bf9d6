"""A run as a web service: POST the bytes of a picture to /classify.

pip install fastapi uvicorn
RUN=runs/gopro uvicorn --app-dir examples/serve app:app --port 8000
curl --data-binary @picture.jpg http://127.0.0.1:8000/classify
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from PIL import Image

import promptkit

RUN = os.environ.get("RUN", "runs/gopro")
MAX_BYTES, MAX_PIXELS = 10_000_000, 40_000_000
BATCH, WAIT, WAITING = 32, 0.01, 256
"""Pictures that are answered together, the seconds that the first of them waits for others, and how many may wait."""


class Batcher:
    """Answers together what is asked within a moment."""

    def __init__(self) -> None:
        self.classifier = promptkit.load(RUN)
        self.queue: asyncio.Queue[tuple[Image.Image, asyncio.Future[Any]]] = asyncio.Queue(WAITING)

    async def run(self) -> None:
        while True:
            asked = [await self.queue.get()]
            await asyncio.sleep(WAIT)
            while len(asked) < BATCH and not self.queue.empty():
                asked.append(self.queue.get_nowait())
            try:
                found = await asyncio.to_thread(self.classifier, [picture for picture, _ in asked], 5)
            except Exception as error:
                found = [error] * len(asked)
            for (_, future), answer in zip(asked, found, strict=True):
                if not future.done():  # who asked may have gone
                    future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.batcher = Batcher()
    task = asyncio.create_task(app.state.batcher.run())
    yield
    task.cancel()


app = FastAPI(title="promptkit", lifespan=lifespan)


@app.get("/health")
def health() -> dict[str, Any]:
    return {"run": RUN, "classes": app.state.batcher.classifier.classnames, "waiting": app.state.batcher.queue.qsize()}


@app.post("/classify")
async def classify(request: Request) -> Any:
    """`[{"label": ..., "score": ...}, ...]`, the likeliest class first."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"a picture has at most {MAX_BYTES:,} bytes")
    picture = await asyncio.to_thread(_open, bytes(content))
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        app.state.batcher.queue.put_nowait((picture, future))
    except asyncio.QueueFull:
        raise HTTPException(503, "too many pictures are waiting") from None
    return await future


def _open(content: bytes) -> Image.Image:
    try:
        picture = Image.open(BytesIO(content), formats=("JPEG", "PNG", "WEBP", "GIF"))
        if picture.width * picture.height > MAX_PIXELS:
            raise HTTPException(413, f"a picture has at most {MAX_PIXELS:,} pixels")
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise HTTPException(415, "this is no JPEG, PNG, WebP or GIF picture, or a damaged one") from None
    return picture
