"""A run as a page to drop pictures on: pip install gradio; RUN=runs/gopro python examples/serve/page.py"""

import os

import gradio
from PIL import Image

import promptkit

classifier = promptkit.load(os.environ.get("RUN", "runs/gopro"))


def classify(picture: Image.Image) -> dict[str, float]:
    return {answer["label"]: answer["score"] for answer in classifier(picture)}


page = gradio.Interface(
    classify, gradio.Image(type="pil"), gradio.Label(num_top_classes=5), title="promptkit", flagging_mode="never"
)

if __name__ == "__main__":
    page.launch(max_file_size="10mb")
