"""Key/value cache for a batch of conversations, kept between rounds so that each token is computed only once.

All rows write to the same slots, so that one slice serves the whole batch. A row with fewer new tokens, or one that was
cropped, has unused slots there (holes). A slot's number therefore isn't its token's position. The model still decides
which tokens attend to which: its mask functions (causal, sliding window, chunks) are evaluated on the positions of the
slots' tokens. The cache is compacted when it uses more than 1.2 times the slots of its longest row. A step may be
computed for a subset of rows, so that rows with few new tokens are not padded to the length of those with many.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

#: Compact the cache when it uses more than this many times the slots of the longest row.
MAX_SLOT_RATIO = 1.2
#: Attention implementations that can apply the cache's masks.
ATTENTION = ("sdpa", "eager")
MASKED = torch.finfo(torch.bfloat16).min
#: Position of an unused slot: after all tokens, so that no token attends to it.
HOLE = torch.iinfo(torch.int32).max


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
        return self.kv.get_mask_sizes(query_length, 0)

    def get_seq_length(self) -> int:
        return self.kv.used

    def get_max_length(self) -> int:
        return -1


class ConversationCache(Cache):
    """Keys and values of `rows` conversations, and which token each slot of a row holds.

    `positions` has the position of each slot's token in its conversation, [rows, capacity]; HOLE in an unused slot.
    `view` is the slice of rows that the next step computes, `new` the number of slots.
    """

    layers: list[Any]  # of _Layer, created by the model's first step

    def __init__(self, rows: int, capacity: int, device: torch.device):
        create_layer: Any = partial(_Layer, self)
        super().__init__(layer_class_to_replicate=create_layer)
        self.rows, self.capacity, self.used, self.new = rows, capacity, 0, 0
        self.view = slice(None)
        self.positions = torch.full((rows, capacity), HOLE, device=device)

    def reserve(self, starts: torch.Tensor, lengths: torch.Tensor) -> None:
        """Reserve slots for the next lengths[row] tokens of each row, from position starts[row] on, right-aligned."""
        new = int(lengths.max())
        start, self.used = self.used, self.used + new
        if self.used > self.capacity:
            self._grow(max(self.used, 2 * self.capacity))
        offsets = torch.arange(new, device=lengths.device) - (new - lengths[:, None])
        self.positions[:, start : self.used] = torch.where(offsets >= 0, starts[:, None] + offsets, HOLE)

    def select(self, view: slice, new: int) -> torch.Tensor:
        """Select the rows of the next step, which computes the last `new` slots; return their tokens' positions."""
        self.view, self.new = view, new
        positions = self.positions[view, self.used - new : self.used]
        return positions.masked_fill(positions == HOLE, 0)

    def mask(self, mask_function: Callable[..., torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Return the additive mask of the next step, [rows, 1, new, used].

        An unused slot attends to unused slots, itself included, so that its softmax is defined.

        Args:
            mask_function: the model's function of a row's number, a head's, a token's position and another token's,
                which returns whether the first token attends to the other.
        """
        positions = self.positions[self.view, None, None, : self.used]
        rows = torch.arange(len(positions), device=positions.device)[:, None, None, None]
        visible = mask_function(rows, 0 * rows[:1], positions[..., self.used - self.new :].mT, positions)
        return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, MASKED)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, Any]:
        """Return the number of used slots and, as the keys' offset, the cache itself: `_create_mask` receives it."""
        return self.used, self

    def crop(self, lengths: torch.Tensor) -> None:  # type: ignore[override]  # the base class takes one length
        """Keep the first lengths[row] tokens of each row; compact the cache if holes waste too many slots."""
        self.positions.masked_fill_(self.positions >= lengths[:, None], HOLE)
        longest = int(lengths.max())
        if self.used > MAX_SLOT_RATIO * longest:
            self._compact(longest)

    def expand(self, index: torch.Tensor) -> None:
        """Replace row i by a copy of row index[i], for a new batch of len(index) rows."""
        self.rows = len(index)
        self.positions = self.positions[index]
        for layer in self.layers:
            layer.change(lambda tensor: tensor[index])

    def reorder(self, index: torch.Tensor) -> None:
        """Copy row index[i] to row i, for the first len(index) rows."""
        first = slice(len(index))
        self.positions[first] = self.positions[index]
        for layer in self.layers:
            layer.move(index)

    def _compact(self, longest: int) -> None:
        """Move each row's tokens together so that they end at slot `longest`."""
        kept_slots = self.positions[:, : self.used] != HOLE
        order = kept_slots.to(torch.int8).argsort(dim=1, stable=True)[:, self.used - longest :]
        self.positions[:, :longest] = self.positions.gather(1, order)
        self.positions[:, longest:] = HOLE
        for layer in self.layers:
            layer.change(lambda tensor: _gather(tensor, order))
        self.used = longest

    def _grow(self, capacity: int) -> None:
        extra = capacity - self.capacity
        self.capacity = capacity
        self.positions = torch.nn.functional.pad(self.positions, (0, extra), value=HOLE)
        for layer in self.layers:
            layer.change(lambda tensor: torch.nn.functional.pad(tensor, (0, 0, 0, extra)))


def _gather(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Move the slots `order` [rows, kept] of `tensor` [rows, heads, capacity, width] to the front, in place."""
    index = order[:, None, :, None].expand(-1, tensor.shape[1], -1, tensor.shape[3])
    tensor[:, :, : order.shape[1]] = tensor.gather(2, index)
    return tensor


def _create_mask(create_mask: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Create the mask of a step from the positions in a ConversationCache, and any other mask as transformers does."""
    cache = kwargs.get("kv_offset")
    if isinstance(cache, ConversationCache):
        return cache.mask(kwargs["mask_function"], kwargs["dtype"])
    return create_mask(*args, **kwargs)


for _attention in ATTENTION:
    ALL_MASK_ATTENTION_FUNCTIONS.register(_attention, partial(_create_mask, ALL_MASK_ATTENTION_FUNCTIONS[_attention]))
