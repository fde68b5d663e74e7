"""The vision tower and the resampler that makes the same number of positions of every picture."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward

#: Of every norm here; `layer_norm_epsilon` of the release is the language model's alone.
EPSILON = 1e-6
#: Positions along an edge of the stored table, whatever the picture's size.
STORED_EDGE = 16
#: Width of a head of the resampler.
HEAD_WIDTH = 128


class QwenVLVisionConfig(CLIPVisionConfig):
    """The configuration of vision tower and resampler.

    Attributes:
        output_dim: width of the features, the language model's.
        n_queries: positions a picture takes.
    """

    model_type = "vlcore_qwen_vl_vision"
    output_dim: int = 4096
    n_queries: int = 256


class Attention(nn.Module):
    """What the tower's and the resampler's attention share.

    Args:
        config: of the vision tower.
        width: of inputs and outputs.
        heads: how many there are.
    """

    is_causal = False

    def __init__(self, config: QwenVLVisionConfig, width: int, heads: int) -> None:
        super().__init__()
        self.config, self.heads, self.width = config, heads, width // heads
        self.out_proj = nn.Linear(width, width)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(pictures, positions, heads, head width) each to (pictures, query positions, width)."""
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        heads = (tensor.transpose(1, 2) for tensor in (query, key, value))
        output, _ = attend(self, *heads, None, scaling=self.width**-0.5, dropout=0.0)
        projected: torch.Tensor = self.out_proj(output.flatten(-2))
        return projected


class TowerAttention(Attention):
    """Self-attention whose fused projection goes head by head: query, key and value of the first, of the second ..."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__(config, config.hidden_size, config.num_attention_heads)
        self.in_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(pictures, patches, width) to the same."""
        mixed = self.in_proj(hidden).unflatten(-1, (self.heads, 3, self.width))
        query, key, value = mixed.unbind(-2)
        return self.attend(query, key, value)


class Block(GradientCheckpointingLayer):
    """A layer of the tower, norms first; modules are named as in the release."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.ln_1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = TowerAttention(config)
        self.ln_2 = nn.LayerNorm(width, eps=EPSILON)
        layers = {"c_fc": nn.Linear(width, inner), "gelu": nn.GELU(), "c_proj": nn.Linear(inner, width)}
        self.mlp = nn.Sequential()
        for name, layer in layers.items():
            self.mlp.add_module(name, layer)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(pictures, patches, width) to the same."""
        hidden = hidden + self.attn(self.ln_1(hidden))
        widened: torch.Tensor = self.mlp(self.ln_2(hidden))
        return hidden + widened


class VisionTower(PreTrainedModel):
    """Pictures to patches, without a class token and without a norm at the end."""

    config_class = QwenVLVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__(config)
        width, patch = config.hidden_size, int(config.patch_size)  # type: ignore[arg-type]
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(STORED_EDGE**2, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPSILON)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        start_positions(module, self.config.initializer_range)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(pictures, 3, edge, edge) to (pictures, patches, width), patches row by row."""
        patches = self.conv1(pixel_values.to(self.conv1.weight.dtype))
        positions = resize_positions(self.positional_embedding, patches.shape[-1])
        hidden: torch.Tensor = self.ln_pre(patches.flatten(2).transpose(1, 2) + positions)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class CrossAttention(Attention):
    """The attention of the resampler's queries to a picture's patches."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__(config, config.output_dim, config.output_dim // HEAD_WIDTH)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(config.output_dim, config.output_dim) for _ in range(3))

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(pictures, queries or patches, width) each to (pictures, queries, width)."""
        split = (self.heads, self.width)
        query, key = self.q_proj(query).unflatten(-1, split), self.k_proj(key).unflatten(-1, split)
        return self.attend(query, key, self.v_proj(value).unflatten(-1, split))


class Resampler(nn.Module):
    """Patches to the features of a fixed number of learned queries. Values carry no positions."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width, queries = config.output_dim, config.n_queries
        self.query = nn.Parameter(torch.empty(queries, width))
        self.pos_embed = nn.Parameter(torch.empty(queries, width))
        same = config.hidden_size == width
        self.kv_proj = nn.Identity() if same else nn.Linear(config.hidden_size, width, bias=False)
        self.attn = CrossAttention(config)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, eps=EPSILON) for _ in range(3))
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(pictures, patches, tower's width) to (pictures, queries, language model's width)."""
        values = self.ln_kv(self.kv_proj(patches))
        positions = resize_positions(self.pos_embed, int(values.shape[1] ** 0.5))
        queries = (self.ln_q(self.query) + self.pos_embed).expand(len(values), -1, -1)
        features: torch.Tensor = self.proj(self.ln_post(self.attn(queries, values + positions, values)))
        return features


def resize_positions(table: torch.Tensor, edge: int) -> torch.Tensor:
    """A square table of positions, (rows x columns, width), at another edge, in float32.

    Bicubic without antialiasing, as the release's `get_abs_pos`; as it is when the edge is the same.
    """
    stored = int(len(table) ** 0.5)
    if stored == edge:
        return table
    grid = table.float().view(stored, stored, -1).permute(2, 0, 1)[None]
    resized = functional.interpolate(grid, size=(edge, edge), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.to(table.dtype)


def start_positions(module: nn.Module, deviation: float) -> None:
    """Draws the tables of a module, which transformers does not know how to start."""
    for name in ("positional_embedding", "query", "pos_embed"):
        if isinstance(parameter := getattr(module, name, None), nn.Parameter):
            init.normal_(parameter, std=deviation)
