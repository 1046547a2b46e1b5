"""Tool use with published problem sets in place of the templates' own problems."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from atp.scenarios.sources import TemplateSource
from atp.testbed import Testbed
from atp.testbeds.tool_use.problem_sets import ProblemSet, read_problems
from atp.testbeds.tool_use.scenarios import ProblemPool

SETS = ("easy", "hard")


class ProblemSource(TemplateSource):
    """Scenarios from templates whose easy problems, hard problems or both come from published sets."""

    source: Literal["problems"] = "problems"  # type: ignore[assignment]
    #: The sets' problems are split, so templates need not be.
    unseen_templates: float = Field(
        0.0, ge=0, lt=1, description="proportion of the templates that only test scenarios are made from"
    )
    easy: ProblemSet | None = Field(None, description="set of the easy problems; left out: the templates' own")
    hard: ProblemSet | None = Field(None, description="set of the hard problems; left out: the templates' own")

    @model_validator(mode="after")
    def _check_sets(self) -> "ProblemSource":
        if not self.sets:
            raise ValueError("easy, hard: found none, source 'problems' needs at least one of them")
        if self.easy and self.easy == self.hard:
            raise ValueError(f"easy, hard: found '{self.easy.path}' as both, must be two sets")
        return self

    @property
    def sets(self) -> dict[str, ProblemSet]:
        """The problem sets that are named, by the kind of their problems."""
        return {kind: problems for kind in SETS if (problems := getattr(self, kind))}

    def files(self, testbed: Testbed, root: Path) -> list[Path]:
        local = [root / problems.path for problems in self.sets.values() if problems.local]
        return [*super().files(testbed, root), *local]

    def params(self) -> dict[str, Any]:
        params = super().params()
        for kind, problems in self.sets.items():
            params[kind]["path"] = Path(problems.path).name if problems.local else problems.path
        return params

    def arguments(self, root: Path) -> dict[str, Any]:
        """Return a pool of problems for each set. A problem in both counts as hard, so that no test is practised."""
        problems = {kind: read_problems(settings, root) for kind, settings in self.sets.items()}
        hard = {problem.question for problem in problems.get("hard", ())}
        if "easy" in problems:
            problems["easy"] = [problem for problem in problems["easy"] if problem.question not in hard]
        return {
            f"{kind}_set": ProblemPool(f"{kind} set '{self.sets[kind].path}'", pool, self.seed)
            for kind, pool in problems.items()
        }
