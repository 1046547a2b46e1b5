"""Invented names for options, so that a model must read the prompt to know what a name stands for."""

from random import Random

from atp.scenarios.templates import Pair

_KINDS = (
    "route road way path store shop mill plan method line tool table form list crew brand model tape stack desk "
    "oven press block lane gate bridge harbour street yard field row tree page shelf scan test batch sample mix "
    "dish menu stove choir hall book client order pack deal price lot team squad unit brush mop wall brick crane "
    "depot"
).split()
_TRAITS = (
    "red blue green white black grey amber silver north south east west upper lower inner outer first second "
    "third old new long short wide narrow early late round square plain double single listed manual common usual "
    "open quiet"
).split()
_SYLLABLES = (
    "ba be bo da de do fa fi ga go ha ka ko la le lo ma me mo na ne no pa pe ra re ro sa se so ta te to va ve vo za"
).split()


def make_name(rng: Random) -> str:
    """Return an invented word, capitalised."""
    return "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 3))).capitalize()


def make_labels(rng: Random) -> Pair:
    """Return different names of one pattern for two options."""
    kind = rng.choice(_KINDS)
    pattern = rng.randrange(6)
    if pattern == 0:
        first, second = rng.sample("ABCDEFGHKLMNPRSTXYZ", 2)
        return f"{kind.capitalize()} {first}", f"{kind.capitalize()} {second}"
    if pattern == 1:
        one, two = rng.sample(range(1, 30), 2)
        return f"{kind} {one}", f"{kind} {two}"
    if pattern == 2:
        a, b = rng.sample(_TRAITS, 2)
        return f"the {a} {kind}", f"the {b} {kind}"
    if pattern == 3:
        a, b = rng.sample(_TRAITS, 2)
        other = rng.choice(_KINDS)
        return f"{a} {kind}", f"{b} {other}"
    first_name, second_name = make_name(rng), make_name(rng)
    if first_name == second_name:
        return make_labels(rng)
    suffix = f" {kind.capitalize()}" if pattern == 4 else ""
    return f"{first_name}{suffix}", f"{second_name}{suffix}"
