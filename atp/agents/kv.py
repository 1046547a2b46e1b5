"""Key/value cache for a batch of conversations, kept between rounds so that each token is computed only once.

All rows write to the same slots, so that one slice serves the whole batch. A row with fewer new tokens, or one that was
cropped, has unused slots there (holes), which the attention mask hides. The cache is compacted when it uses more
than 1.2 times the slots of its longest row. A step may be computed for a subset of rows, so that rows with few new
tokens are not padded to the length of those with many.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

#: Compact the cache when it uses more than this many times the slots of the longest row.
MAX_SLOT_RATIO = 1.2
MASKED = torch.finfo(torch.bfloat16).min


class _Layer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, capacity, head_dim], written in place at the current step's slots."""

    is_sliding = False

    def __init__(self, kv: "ConversationCache"):
        super().__init__()
        self.kv = kv

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        _, heads, _, width = key_states.shape
        self.keys = key_states.new_zeros(self.kv.rows, heads, self.kv.capacity, width)
        self.values = value_states.new_zeros(self.kv.rows, heads, self.kv.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, end = self.kv.view, self.kv.used
        start = end - key_states.shape[2]
        self.keys[rows, :, start:end] = key_states
        self.values[rows, :, start:end] = value_states
        return self.keys[rows, :, :end], self.values[rows, :, :end]

    def change(self, move: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace keys and values by `move(keys)` and `move(values)`."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = move(self.keys), move(self.values)

    def move(self, index: torch.Tensor) -> None:
        """Copy row index[i] to row i in place; temporary copies exist for one layer at a time."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            for tensor in (self.keys, self.values):
                tensor[: len(index), :, : self.kv.used] = tensor[index, :, : self.kv.used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.kv.used, 0

    def get_seq_length(self) -> int:
        return self.kv.used

    def get_max_length(self) -> int:
        return -1


class ConversationCache(Cache):
    """Keys and values of `rows` conversations, and which slots of each row hold a token.

    `bias` is the additive attention mask of the slots, [rows, capacity]: 0 where a row holds a token, else MASKED.
    `view` is the slice of rows that the next step computes.
    """

    def __init__(self, layers: int, rows: int, capacity: int, device: torch.device, dtype: torch.dtype):
        self.cache_layers = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.cache_layers))
        self.rows, self.capacity, self.used = rows, capacity, 0
        self.view = slice(None)
        self.bias = torch.full((rows, capacity), MASKED, dtype=dtype, device=device)

    def reserve(self, lengths: torch.Tensor) -> None:
        """Reserve slots for the next lengths[row] tokens of each row, right-aligned; a length of 0 skips the row."""
        new = int(lengths.max())
        start, self.used = self.used, self.used + new
        if self.used > self.capacity:
            self._grow(max(self.used, 2 * self.capacity))
        present = torch.arange(new, device=self.bias.device) >= new - lengths[:, None]
        self.bias[:, start : self.used] = torch.where(present, 0.0, MASKED).to(self.bias.dtype)

    def mask(self, view: slice, new: int) -> torch.Tensor:
        """Select the rows of the next step, which computes the last `new` slots, and return their additive mask.

        Returns:
            [rows, 1, new, used]: a token attends to its row's earlier tokens and itself. Padding attends to itself, so
            that its softmax is defined.
        """
        self.view = view
        visible = self.bias[view, None, None, : self.used]
        if new == 1:
            return visible
        mask = visible.repeat(1, 1, new, 1)
        start = self.used - new
        causal = torch.triu(torch.full((new, new), MASKED, dtype=mask.dtype, device=mask.device), diagonal=1)
        mask[..., start:] = torch.minimum(mask[..., start:], causal)
        slots = torch.arange(new, device=mask.device)
        mask[:, 0, slots, start + slots] = 0.0
        return mask

    def crop(self, lengths: torch.Tensor) -> None:  # type: ignore[override]  # the base class takes one length
        """Keep the first lengths[row] tokens of each row; compact the cache if holes waste too many slots."""
        occupied = self.bias[:, : self.used] == 0
        kept_slots = occupied & (occupied.cumsum(dim=1) <= lengths[:, None])
        self.bias[:, : self.used].masked_fill_(occupied & ~kept_slots, MASKED)
        longest = int(lengths.max())
        if self.used > MAX_SLOT_RATIO * longest:
            self._compact(kept_slots, longest)

    def expand(self, index: torch.Tensor) -> None:
        """Replace row i by a copy of row index[i], for a new batch of len(index) rows."""
        self.rows = len(index)
        self.bias = self.bias[index]
        for layer in self.cache_layers:
            layer.change(lambda tensor: tensor[index])

    def reorder(self, index: torch.Tensor) -> None:
        """Copy row index[i] to row i, for the first len(index) rows."""
        first = slice(len(index))
        self.bias[first] = self.bias[index]
        for layer in self.cache_layers:
            layer.move(index)

    def _compact(self, kept_slots: torch.Tensor, longest: int) -> None:
        """Move each row's tokens together so that they end at slot `longest`."""
        order = kept_slots.to(torch.int8).argsort(dim=1, stable=True)[:, self.used - longest :]
        self.bias[:, :longest] = self.bias.gather(1, order)
        self.bias[:, longest:] = MASKED
        for layer in self.cache_layers:
            layer.change(lambda tensor: _gather(tensor, order))
        self.used = longest

    def _grow(self, capacity: int) -> None:
        extra = capacity - self.capacity
        self.capacity = capacity
        self.bias = torch.nn.functional.pad(self.bias, (0, extra), value=MASKED)
        for layer in self.cache_layers:
            layer.change(lambda tensor: torch.nn.functional.pad(tensor, (0, 0, 0, extra)))


def _gather(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Move the slots `order` [rows, kept] of `tensor` [rows, heads, capacity, width] to the front, in place."""
    index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
    tensor[:, :, : order.shape[1]] = tensor.gather(2, index)
    return tensor
