"""The series of rates that a study yields."""

from collections.abc import Iterator

from atp.files.schemas import EMPTIED, TRANSFER, WITH_MEMORY
from atp.memory.channel import MEMORY
from atp.study.study import Study, channel_seeds, players, variants

#: Keys that name a series.
WHERE = ("model", "testbed", "alignment", "condition", "channel", "variant")
#: Values of these keys, and the seeds.
Series = tuple[dict[str, str], tuple[int, ...]]
#: Variants of channels whose series are over generations.
VARIANTS = {"weights": ("evaluation",), MEMORY: (WITH_MEMORY, EMPTIED)}


def series(study: Study) -> Iterator[Series]:
    """Yield each series of a study, over rounds or over generations."""
    for testbed, section in study.testbeds.items():
        transferred = [(other, f"{TRANSFER}{testbed}") for other in section.weights.transfer] if section.weights else []
        for name, channel in section.channels.items():
            for condition in channel.conditions:
                labels = variants(section, condition) if name == "context" else VARIANTS[name]
                for model, alignment in players(study, channel):
                    seeds = channel_seeds(study, channel, alignment)
                    for played, place in [(testbed, name), *(transferred if name == "weights" else [])]:
                        for label in labels:
                            values = (model, played, alignment, condition, place, label)
                            yield dict(zip(WHERE, values, strict=True)), seeds
