"""Frozen CLIP models: the contract (`base`), open_clip's models (`openclip`), the fast text path (`prompt_encoder`)."""
