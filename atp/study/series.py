"""The series of rates that a study yields."""

from collections.abc import Iterator

from atp.files.schemas import TRANSFER
from atp.study.study import Study, channel_seeds, players, variants

#: Keys that name a series.
WHERE = ("model", "testbed", "alignment", "condition", "channel", "variant")
#: Values of these keys, and the seeds.
Series = tuple[dict[str, str], tuple[int, ...]]
EVALUATION = "evaluation"


def series(study: Study) -> Iterator[Series]:
    """Yield each series of a study, over rounds or over generations."""
    for testbed, section in study.testbeds.items():
        transfer = section.weights.transfer if section.weights else ()
        places = {"context": [(testbed, "context")], "weights": [(testbed, "weights")]}
        places["weights"] += [(other, f"{TRANSFER}{testbed}") for other in transfer]
        for channel in (section.context, section.weights):
            if channel is None:
                continue
            in_context = channel is section.context
            for condition in channel.conditions:
                labels = variants(section, condition) if in_context else (EVALUATION,)
                for model, alignment in players(study, channel):
                    seeds = channel_seeds(study, channel, alignment)
                    for played, name in places["context" if in_context else "weights"]:
                        for label in labels:
                            values = (model, played, alignment, condition, name, label)
                            yield dict(zip(WHERE, values, strict=True)), seeds
