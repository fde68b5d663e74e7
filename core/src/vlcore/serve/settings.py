"""What `vlcore serve` takes."""

from __future__ import annotations

from dataclasses import dataclass

from vlcore.config import LoadConfig, setting
from vlcore.errors import UsageError, suggest_near


@dataclass(frozen=True, kw_only=True)
class ServeConfig(LoadConfig):
    """The model, its adapters, where it is served, and the limits of what requests may ask for."""

    ckpt_dir: str = setting("", "A checkpoint that training left (adapter or full), or a merged folder.")
    adapter: tuple[str, ...] = setting(
        (), "Adapters beside the model as NAME=FOLDER; requests choose by name.", aliases=("adapters",))
    served_name: str = setting("", "Name of the model in requests; else its registered name, else its folder's.")
    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 is every one of this machine.")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65535)
    api_key: str = setting("", "Key that requests must bring; else VLCORE_API_KEY, which does not show in the list of "
                           "processes.")
    max_batch_size: int = setting(8, "Answers computed at once.", minimum=1)
    max_queue: int = setting(64, "Requests that may wait beside them; more are told to come again (429).", minimum=0)
    max_length: int = setting(
        0, "Longest prompt and answer together in tokens; 0 is what the model's configuration says.", minimum=0)
    max_prefill: int = setting(8192, "Prompts of up to so many tokens together are read at once.", minimum=1)
    prefix_cache_mb: int = setting(
        1024, "Memory in MB for what was computed of earlier talks, whose next turns are then answered sooner; 0 is "
        "off.", minimum=0)
    grace: float = setting(30.0, "Seconds that running answers have to end when the server is told to stop.", minimum=0)
    max_body_bytes: int = setting(32 * 2**20, "Largest request.", minimum=1)
    max_images: int = setting(16, "Most pictures of a request.", minimum=0)
    max_image_bytes: int = setting(20 * 2**20, "Largest picture as a file.", minimum=1)
    max_pixels: int = setting(50_000_000, "Largest picture in pixels.", minimum=1)
    media_timeout: float = setting(20.0, "Seconds that fetching a picture may take altogether.", above=0)
    allow_private_media: bool = setting(
        False, "Fetch pictures from addresses that are not public: this machine, the intranet.")
    allowed_media_dir: tuple[str, ...] = setting(
        (), "Folders whose pictures requests may name by path or file: URL; else none may be.")

    def __post_init__(self) -> None:
        LoadConfig.__post_init__(self)
        if not (self.model or self.model_type or self.ckpt_dir or self.adapter):
            raise UsageError("serve without a model", "nothing says which model", "give --model or --ckpt_dir")
        names = [name for name, _ in self.adapters]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"--adapter {name}", "two adapters have this name", "give each a name of its own")

    @property
    def adapters(self) -> tuple[tuple[str, str], ...]:
        """Name and folder of each adapter.

        Raises:
            UsageError: for a text that is not NAME=FOLDER.
        """
        pairs = [text.partition("=") for text in self.adapter]
        for text, (name, sign, folder) in zip(self.adapter, pairs, strict=True):
            if not (name and sign and folder):
                raise UsageError(f"--adapter {text}", "it is not NAME=FOLDER", "write it so")
        return tuple((name, folder) for name, _, folder in pairs)


def describe_unknown(name: str, known: tuple[str, ...]) -> str:
    """What to do about a model that is not served."""
    return f"GET /v1/models lists them; {suggest_near(name, known)}"
