"""Getting a model and its tokenizer out of open_clip, and saying in words what is wrong when that fails."""

import logging
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub.constants as hub
import open_clip
import torch
from open_clip.factory import _find_checkpoint_in_dir
from torch import nn

from promptkit.backbones.prompt_tokenizer import ClipTokenizer, Tokenizer
from promptkit.errors import BackboneError, UnknownNameError
from promptkit.files import plain_json, text_of

log = logging.getLogger("promptkit")


OPENAI_KEYS = {"input_resolution", "context_length", "vocab_size"}


class Source(NamedTuple):
    """A model as the user names it. `schema` is "local-dir", "hf-hub" or empty; `name` is what open_clip calls it."""

    name: str
    schema: str
    place: str


OWN = "own weights"
"""What the weights of a schema are called: they came with the model, whatever `weights` says."""


def load_model(name: str, weights: str) -> tuple[nn.Module, Tokenizer, str, dict[str, Any]]:
    """See `load_openclip`. The last two are what the weights that were loaded are called, and the configuration."""
    with _quiet():
        source = _parse(name)
        config = _config(source)
        if encoder := config["text_cfg"].get("hf_model_name"):
            _check_encoder(source, encoder)
        arguments = _weights(source, weights)
        tokenizer = _tokenizer(source, config["text_cfg"])
        model = _create(source, weights, arguments)
    if not arguments["require_pretrained"]:
        log.warning("random weights: %s has learned nothing", source.name)
    loaded = OWN if source.schema and arguments["require_pretrained"] else weights
    if arguments.get("force_quick_gelu"):
        config["quick_gelu"] = True
    return model, tokenizer, loaded, config


def _parse(name: str) -> Source:
    for schema in ("local-dir", "hf-hub"):
        if name.startswith(f"{schema}:"):
            return Source(name, schema, name.removeprefix(f"{schema}:"))
    return Source(name.replace("/", "-"), "", "")


def _config(source: Source) -> dict[str, Any]:
    """The model's configuration, before anything is built."""
    if source.schema == "local-dir":
        config = _local_config(Path(source.place) / "open_clip_config.json")
    elif source.schema == "hf-hub":
        try:
            with _hub():
                config = open_clip.get_model_config(source.name)
        except Exception as error:  # huggingface_hub has many; all mean that there is no configuration
            raise _not_here(f"the model {source.name}", f"{hub.ENDPOINT}/{source.place}", error) from None
    else:
        config = open_clip.get_model_config(source.name)
        if config is None:
            raise UnknownNameError(
                "open_clip architecture",
                source.name,
                open_clip.list_models(),
                "python -c 'import open_clip; print(*open_clip.list_models())' lists them all",
            )
    try:
        return {**config, "text_cfg": dict(config["text_cfg"])}
    except (KeyError, TypeError):
        raise BackboneError(f"the configuration of {source.name} describes no text tower (text_cfg)") from None


def _local_config(path: Path) -> Any:
    try:
        return plain_json(text_of(path))["model_cfg"]
    except OSError:
        raise BackboneError(f"no file {path}", "a local-dir holds open_clip_config.json and a weights file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"{path} is no open_clip configuration: {type(error).__name__}: {error}") from None


def _weights(source: Source, weights: str) -> dict[str, Any]:
    """The arguments of `open_clip.create_model` that choose the weights, and the activation that goes with them.

    `state` in their place holds weights that open_clip's reader doesn't take.
    """
    if source.schema == "hf-hub":
        return {"require_pretrained": True}
    if source.schema == "local-dir":
        found = _find_checkpoint_in_dir(Path(source.place)) is not None
        if not found and weights != "none":
            hint = "put open_clip_model.safetensors there, or use --weights none for random ones"
            raise BackboneError(f"no weights file in {source.place}", hint)
        return {"require_pretrained": found}
    if weights == "none":
        return {"require_pretrained": False}
    if tag := open_clip.get_pretrained_cfg(source.name, weights):
        # Of a tag trained with QuickGELU and an architecture that says GELU, open_clip only warns, and builds GELU.
        return {"pretrained": weights, "require_pretrained": True, "force_quick_gelu": bool(tag.get("quick_gelu"))}
    if Path(weights).is_file():
        if state := _openai_state(Path(weights)):
            log.info("the activation is QuickGELU: %s is OpenAI's own file", weights)
            return {"state": state, "require_pretrained": True, "force_quick_gelu": True}
        quick_gelu = _says_quick_gelu(Path(weights))
        if quick_gelu:
            log.info("the activation is QuickGELU, as open_clip_config.json beside %s says", weights)
        return {"pretrained": weights, "require_pretrained": True, "force_quick_gelu": quick_gelu}
    tags = open_clip.list_pretrained_tags_by_model(source.name)
    if Path(weights).name != weights or Path(weights).suffix:
        raise BackboneError(f"no weights file {weights}", f"or a tag of {source.name}: {', '.join([*tags, 'none'])}")
    raise UnknownNameError(f"weights for {source.name}", weights, [*tags, "none"])


def _openai_state(path: Path) -> dict[str, Any]:
    """The weights of a file in OpenAI's own format, an archive of TorchScript or a state dict; empty for another file.

    Both hold three numbers that no other file has (`build_model` of `clip/model.py`).
    """
    if path.suffix == ".safetensors":
        return {}
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated; these files were written with it
            if _is_archive(path):
                state = dict(torch.jit.load(str(path), map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
            else:
                state = dict(torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)))
    except Exception:  # whatever is wrong with the file, open_clip meets it again, and it is told there
        return {}
    return {key: state[key] for key in state if key not in OPENAI_KEYS} if state.keys() >= OPENAI_KEYS else {}


def _says_quick_gelu(path: Path) -> bool:
    """Is there a configuration beside the file, as in repositories of the Hugging Face hub, that says QuickGELU?"""
    config = path.with_name("open_clip_config.json")
    return config.is_file() and bool(_local_config(config).get("quick_gelu"))


def _is_archive(path: Path) -> bool:
    """Is it TorchScript's kind of zip file?"""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tokenizer(source: Source, text: Mapping[str, Any]) -> Tokenizer:
    named = text.get("hf_tokenizer_name") or "siglip" in source.name.lower()
    if not named and not text.get("tokenizer_kwargs"):
        return ClipTokenizer(text.get("context_length", 77))
    fetched = source.schema == "hf-hub" or (not source.schema and bool(named))
    try:
        with _hub(needed=fetched):
            tokenizer: Tokenizer = open_clip.get_tokenizer(source.name)
            return tokenizer
    except ImportError as error:
        raise _lacking("tokenizer", source, error.name or "transformers") from None
    except Exception as error:  # transformers has many
        raise _not_here(f"the tokenizer of {source.name}", "its Hugging Face repository", error) from None


def _check_encoder(source: Source, encoder: str) -> None:
    """Raises BackboneError where Hugging Face's text tower can't be built: without transformers, or its configuration."""
    if open_clip.hf_model.transformers is None:
        raise _lacking("text tower", source, "transformers")
    try:
        with _hub(needed=not Path(encoder).is_dir()):
            open_clip.hf_model.AutoConfig.from_pretrained(encoder)
    except Exception as error:  # transformers has many
        raise _not_here(f"the text tower of {source.name}", f"{hub.ENDPOINT}/{encoder}", error) from None


def _lacking(what: str, source: Source, package: str) -> BackboneError:
    return BackboneError(
        f"the {what} of {source.name} needs {package}, which is not installed", f"pip install {package}"
    )


def _create(source: Source, weights: str, arguments: dict[str, Any]) -> nn.Module:
    """Built under a fixed seed: random weights depend on the name alone, and the caller's random numbers on neither."""
    fetched = source.schema == "hf-hub" or ("pretrained" in arguments and not Path(weights).is_file())
    try:
        with torch.random.fork_rng(devices=[]), _hub(needed=fetched):
            torch.default_generator.manual_seed(0)
            if "state" not in arguments:
                # A text tower from Hugging Face has its own weights fetched where there are none of the whole.
                model: nn.Module = open_clip.create_model(source.name, pretrained_text=False, **arguments)
                return model
            model = open_clip.create_model(source.name, force_quick_gelu=arguments["force_quick_gelu"])
            model.load_state_dict(arguments["state"])
            return model
    except Exception as error:  # a damaged file can make its reader raise anything
        what = source.name if source.schema else f"{weights} for {source.name}"
        message = str(error)
        if message.startswith(("Failed to download", "Required pretrained", "Failed initial")):
            raise _not_here(f"the weights {what}", _origin(source, weights), error) from None
        if "state_dict" in message or "pos_embed width" in message:
            detail = message.strip().splitlines()[-1].strip()
            raise BackboneError(
                f"the weights {what} were made for another architecture: {detail}",
                "choose the architecture that they belong to",
            ) from None
        summary = " ".join([f"{type(error).__name__}:", *message.strip().splitlines()[:1]])
        raise BackboneError(f"the weights {what} can't be read: {summary}", "fetch the file again") from None


def _origin(source: Source, weights: str) -> str:
    if source.schema:
        return f"{hub.ENDPOINT}/{source.place}"
    tag = open_clip.get_pretrained_cfg(source.name, weights)
    return f"{hub.ENDPOINT}/{tag['hf_hub'].rstrip('/')}" if "hf_hub" in tag else str(tag.get("url"))


def _not_here(what: str, origin: str, error: Exception) -> BackboneError:
    log.debug("fetching %s", what, exc_info=error)
    reason = f"{origin} gave none" if _hub_reachable() else f"{hub.ENDPOINT} can't be reached"
    return BackboneError(
        f"{what}: not on this machine, and {reason}",
        f"fetch {origin} elsewhere, open_clip_config.json included, which tells the activation; then pass the file beside it "
        "with --weights PATH, its folder with --backbone local-dir:PATH, or a copy of the cache with HF_HUB_CACHE=PATH",
    )


@lru_cache(maxsize=1)
def _hub_reachable() -> bool:
    """Asked once: huggingface_hub would find out only after most of a minute of retries, for each file."""
    if hub.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def _hub(needed: bool = True) -> Iterator[None]:
    """Where the hub isn't needed it is not asked; where it can't be reached, the cache alone is looked at."""
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = not (needed and _hub_reachable())
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's remarks off the root logger; its calls would also install a handler there."""
    root, stand_in = logging.getLogger(), logging.NullHandler()

    def foreign(record: logging.LogRecord) -> bool:
        return "open_clip" not in record.pathname

    root.addHandler(stand_in)
    root.addFilter(foreign)
    try:
        yield
    finally:
        root.removeFilter(foreign)
        root.removeHandler(stand_in)
