"""The job of the measure stage, apart from the stage, whose imports take long."""

from atp.files.provenance import Job

#: Channel of agents that are aligned again after the last generation; `generation` is the number of pairs.
REPAIR = "repair"


class MeasureJob(Job):
    """Measure turns; the seed draws the bootstrap."""

    stage = "measure"

    seed: int = 0
