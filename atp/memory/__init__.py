"""The memory channel: experience of past episodes in the prompts of later ones, without training."""
