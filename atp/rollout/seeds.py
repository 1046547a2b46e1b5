"""Seeds of prompts."""

import hashlib


def sampling_seed(seed: int, scenario_id: str, sample: int, generation: int, place: tuple[int, int, int]) -> int:
    """Return a prompt's 63-bit seed. It depends on the arguments alone, so that variants share their randomness.

    Args:
        place: round, agent and step of the prompt; zeros for the chance of the testbed itself.
    """
    round, agent, step = place
    key = f"{seed}|{scenario_id}|{sample}|{generation}|{round}|{agent}{f'|{step}' if step else ''}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
