"""The learners that are published with promptkit, which people ask for before they have installed them."""

PACKAGES = {
    "coop": "promptkit-coop",
    "cocoop": "promptkit-coop",
    "gopro": "promptkit-gopro",
    "gopro-reference": "promptkit-gopro",
}
"""By recipe, the package that offers it."""
