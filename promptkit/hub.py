"""The Hugging Face hub: whether it is there."""

import os
import urllib.error
import urllib.request

import huggingface_hub.constants as hub

from promptkit.errors import PromptkitError


def reached(error: type[PromptkitError]) -> str:
    """The hub's address. Raises `error` where nobody answers: the client finds out after half a minute alone."""
    endpoint = (os.environ.get("HF_ENDPOINT") or hub.ENDPOINT).rstrip("/")
    try:
        if hub.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return endpoint
    except OSError as cause:
        reason = getattr(cause, "reason", cause)
        raise error(f"{endpoint} can't be reached: {reason}", "check the network, or HF_ENDPOINT") from None
    return endpoint
