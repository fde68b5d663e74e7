"""What `vlcore web` takes."""

from __future__ import annotations

from dataclasses import dataclass

from vlcore.config import GenerateConfig, LoadConfig, setting
from vlcore.errors import UsageError
from vlcore.serve.settings import ServeConfig

#: Addresses that only this machine reaches.
LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class WebConfig(GenerateConfig, LoadConfig):
    """The model, its adapters, where the page is, and the limits of what is uploaded."""

    ckpt_dir: str = setting("", "A checkpoint that training left (adapter or full), or a merged folder.")
    adapter: tuple[str, ...] = setting(
        (), "Adapters beside the model as NAME=FOLDER; the page offers each by its name.", aliases=("adapters",))
    served_name: str = setting("", "Name of the model on the page; else its registered name, else its folder's.")
    system: str = setting("", "System text instead of the model's.")
    max_length: int = setting(0, "Longest prompt in tokens; a talk forgets its oldest turns above it. 0 is no limit.",
                              minimum=0)
    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 is every one of this machine.",
                        aliases=("server_name",))
    port: int = setting(7860, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65535,
                        aliases=("server_port",))
    auth: str = setting("", "USER:PASSWORD that the browser asks for; else VLCORE_WEB_AUTH, which does not show in the "
                        "list of processes.")
    max_images: int = setting(16, "Most pictures of a question.", minimum=0)
    max_image_bytes: int = setting(20 * 2**20, "Largest picture as a file.", minimum=1)
    max_pixels: int = setting(50_000_000, "Largest picture in pixels.", minimum=1)

    def __post_init__(self) -> None:
        GenerateConfig.__post_init__(self)
        LoadConfig.__post_init__(self)
        if not (self.model or self.model_type or self.ckpt_dir or self.adapter):
            raise UsageError("web without a model", "nothing says which model", "give --model or --ckpt_dir")
        check_auth(self.auth)


def check_auth(text: str) -> None:
    """Refuses what is not USER:PASSWORD, without repeating it.

    Raises:
        UsageError: when one of the two is missing.
    """
    user, _, password = text.partition(":")
    if text and not (user and password):
        raise UsageError("auth", "it is not USER:PASSWORD", "write it so")


def find_models(config: WebConfig) -> ServeConfig:
    """The part that says which model and adapters there are, as `vlcore serve` takes it."""
    names = (*LoadConfig.__dataclass_fields__, "ckpt_dir", "adapter", "served_name")
    return ServeConfig(**{name: getattr(config, name) for name in names})
