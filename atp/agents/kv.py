"""Key/value cache of many conversations, kept from round to round so that a token is computed once.

Knows tensors and slots, not tokens' meaning. All rows write to the same slots, so that one slice serves a batch; a row
with less to write, or one that was cropped, has a hole there, which the mask hides. Holes are compacted away once they
take more than a fifth of the slots in use. A step may be computed for some rows at a time, so that rows with little to
write need not be padded to those with much.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

WASTE = 1.2
MASKED = torch.finfo(torch.bfloat16).min


class _Layer(CacheLayerMixin):
    """One layer's keys and values, [rows, heads, capacity, head_dim], written in place at the slots of this step."""

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
        """Replace keys and values by `move` of them."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys, self.values = move(self.keys), move(self.values)

    def move(self, index: torch.Tensor) -> None:
        """Make row i what row index[i] was, in place: what moves is held twice one layer at a time."""
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            for held in (self.keys, self.values):
                held[: len(index), :, : self.kv.used] = held[index, :, : self.kv.used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.kv.used, 0

    def get_seq_length(self) -> int:
        return self.kv.used

    def get_max_length(self) -> int:
        return -1


class ConversationCache(Cache):
    """Keys and values of `rows` conversations, and which slots of each row hold a token.

    bias is the additive attention mask of the slots, [rows, capacity]: 0 where a row holds a token, else MASKED.
    view is the slice of rows that the next step computes.
    """

    def __init__(self, layers: int, rows: int, capacity: int, device: torch.device, dtype: torch.dtype):
        self.held = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.held))
        self.rows, self.capacity, self.used = rows, capacity, 0
        self.view = slice(None)
        self.bias = torch.full((rows, capacity), MASKED, dtype=dtype, device=device)

    def reserve(self, lengths: torch.Tensor) -> None:
        """Open slots for the next lengths[row] tokens of each row, right-aligned; 0 leaves a row out."""
        new = int(lengths.max())
        start, self.used = self.used, self.used + new
        if self.used > self.capacity:
            self._grow(max(self.used, 2 * self.capacity))
        present = torch.arange(new, device=self.bias.device) >= new - lengths[:, None]
        self.bias[:, start : self.used] = torch.where(present, 0.0, MASKED).to(self.bias.dtype)

    def mask(self, view: slice, new: int) -> torch.Tensor:
        """Choose the rows of the next step, which computes the last `new` slots; returns their additive mask.

        Returns:
            [rows, 1, new, used]: a token sees its row's earlier tokens and itself. Padding sees itself, so that its
            softmax has something to sum.
        """
        self.view = view
        seen = self.bias[view, None, None, : self.used]
        if new == 1:
            return seen
        mask = seen.repeat(1, 1, new, 1)
        start = self.used - new
        later = torch.triu(torch.full((new, new), MASKED, dtype=mask.dtype, device=mask.device), diagonal=1)
        mask[..., start:] = torch.minimum(mask[..., start:], later)
        slots = torch.arange(new, device=mask.device)
        mask[:, 0, slots, start + slots] = 0.0
        return mask

    def crop(self, lengths: torch.Tensor) -> None:  # type: ignore[override]  # per row, where the base class has one
        """Keep the first lengths[row] tokens of each row; then compact if holes waste space."""
        held = self.bias[:, : self.used] == 0
        kept = held & (held.cumsum(dim=1) <= lengths[:, None])
        self.bias[:, : self.used].masked_fill_(held & ~kept, MASKED)
        longest = int(lengths.max())
        if self.used > WASTE * longest:
            self._compact(kept, longest)

    def expand(self, index: torch.Tensor) -> None:
        """Make row i a copy of what row index[i] was."""
        self.rows = len(index)
        self.bias = self.bias[index]
        for layer in self.held:
            layer.change(lambda held: held[index])

    def reorder(self, index: torch.Tensor) -> None:
        """Make row i what row index[i] was, of the first len(index) rows."""
        first = slice(len(index))
        self.bias[first] = self.bias[index]
        for layer in self.held:
            layer.move(index)

    def _compact(self, kept: torch.Tensor, longest: int) -> None:
        """Move each row's tokens together, ending at slot `longest`."""
        order = kept.to(torch.int8).argsort(dim=1, stable=True)[:, self.used - longest :]
        self.bias[:, :longest] = self.bias.gather(1, order)
        self.bias[:, longest:] = MASKED
        for layer in self.held:
            layer.change(lambda held: _gather(held, order))
        self.used = longest

    def _grow(self, capacity: int) -> None:
        extra = capacity - self.capacity
        self.capacity = capacity
        self.bias = torch.nn.functional.pad(self.bias, (0, extra), value=MASKED)
        for layer in self.held:
            layer.change(lambda held: torch.nn.functional.pad(held, (0, 0, 0, extra)))


def _gather(held: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The slots `order`, [rows, kept], of [rows, heads, capacity, width], moved to the front."""
    index = order[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
    held[:, :, : order.shape[1]] = held.gather(2, index)
    return held
