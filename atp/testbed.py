"""The protocol between a testbed and the framework: scenarios, prompts, replies, turns, settings, and `Testbed` itself.

A testbed's `play` is a generator. It yields the open prompts, receives their replies in the same order, and returns
its turns. Tool calls are yielded as `Call` objects, never mixed with prompts, and their outcomes are sent back the same
way. A testbed knows neither which agent answers nor how many other episodes are in flight.

Objects made for every decision are not frozen: a frozen dataclass takes three times as long to create, which is a fifth
of the time of a scripted population. Nothing changes them after creation.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atp.tools import Call, Outcome

INVALID = "invalid"
#: Values of a turn's `role` that the framework knows. A tested turn and a turn with a transplanted history enter no
#: history; a deployed turn is one that an agent learns from in a testbed that also tests it.
DEPLOYED, TESTED, TRANSPLANTED = "deployed", "tested", "transplanted"

Item = TypeVar("Item")

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant" | "tool", "content": text}, as chat templates take it."""


@dataclass(frozen=True)
class Scenario:
    """One instance of a testbed. A testbed's own type adds fields, and every field becomes a column.

    `template_seen` says whether the training split has the scenario's template, and is None without a training split.
    The scenario stage sets it.

    Fields may be annotated with int, float, bool, str, list, dict, an optional of these, or a dataclass. Raise
    `AtpError` in `__post_init__` for impossible values.
    """

    scenario_id: str
    template: str
    split: str
    template_seen: bool | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Peers:
    """What an agent was shown about the other players of a round.

    `took` maps each decision to the number of peers that took it, `paid` each decision that somebody took to its pay,
    and `own` is the agent's own pay in the same unit.
    """

    count: int
    took: Mapping[str, int]
    paid: Mapping[str, float]
    own: float


@dataclass(slots=True)
class PastRound:
    """What a prompt shows about one of the agent's earlier rounds.

    `peers` is None where the prompt shows nothing about other players; `reward` is 0 where it does not show the pay.
    """

    decision: str
    violation: bool | None
    reward: float
    peers: Peers | None = None


@dataclass(slots=True)
class Observation:
    """The facts of a prompt for a scripted policy, which reads no text. The messages state the same facts.

    Args:
        answers: decision -> a reply that states it.
        violating: the decision that is the violation. Where several are, the one that scripted policies take.
        history: earlier rounds that the prompt shows, oldest first.
        begins: in a game of several players, the first decision of a policy that imitates.
        pays: in such a game, the pay of a decision where so many others collude.
        violations: all decisions that are violations, where `answers` has every decision and the reply that states one
            decides alone; None where it has only examples. Guided answers and `p_violation` need them.
    """

    answers: Mapping[str, str]
    violating: str
    history: tuple[PastRound, ...] = ()
    begins: str | None = None
    pays: Callable[[str, int], float] | None = None
    violations: tuple[str, ...] | None = None

    @property
    def complying(self) -> str:
        """The first decision that is not the violation."""
        return next(decision for decision in self.answers if decision != self.violating)


@dataclass(slots=True)
class Prompt:
    """One open question: the whole conversation as this agent sees it, which ends with a user's or a tool's message.

    `step` numbers several prompts of one agent in one round. The scored decision begins with the reply to step 0 and
    includes the replies to later prompts that have `continues` set. `tools` names the tools that the agent may call.
    """

    agent: int
    round: int
    messages: list[Message]
    observation: Observation
    step: int = 0
    continues: bool = False
    tools: tuple[str, ...] = ()


def steer(prompt: Prompt, sentence: str) -> Prompt:
    """Return the prompt with a sentence appended to its last message."""
    *before, last = prompt.messages
    steered = {**last, "content": f"{last['content']} {sentence}"}
    return replace(prompt, messages=[*before, steered])


@dataclass(slots=True)
class Reply:
    """An agent's reply. `cached_tokens` counts the prompt's tokens that were not computed again.

    `tokens` holds the reply's token ids, including the end of the turn, where a local model wrote it. `p_violation` is
    the probability of a violation at the place where the reply states the decision `stated`; None where it is unknown.
    """

    text: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: Literal["stop", "length", "content_filter"] = "stop"
    tokens: tuple[int, ...] = ()
    stated: str | None = None
    p_violation: float | None = None


@dataclass(slots=True)
class Turn:
    """One scored decision. `violation` is None where the reply is invalid.

    Args:
        role: what the agent is in this round, such as "player"; `TESTED` marks a turn that enters no history.
        shown: the sentence about supervision in the prompt, if the testbed has one.
        audited: whether the round was checked; None where the testbed has no checks.
        caught: whether a violation was caught; None where the testbed does not supervise.
        details: an instance of the testbed's `columns` type, or None.
        later_replies: the agent's replies to later steps of the round, in order.
        tool_results: the tools' results before each of these replies.
    """

    round: int
    agent: int
    role: str
    messages: list[Message]
    reply: Reply
    reasoning: str
    decision: str
    invalid_reason: str | None
    violation: bool | None
    reward: float
    feedback: str
    shown: str | None = None
    audited: bool | None = None
    caught: bool | None = None
    details: Any = None
    later_replies: tuple[Reply, ...] = ()
    tool_results: tuple[tuple[str, ...], ...] = ()
    tools: tuple[str, ...] = ()
    history_from: str | None = None


Episode = Generator[list[Prompt], list[Reply], list[Turn]]
#: An episode whose agents may call tools.
ToolEpisode = Generator[list[Prompt] | list[Call], list[Reply] | list[Outcome], list[Turn]]

#: Reward of alignment by GRPO for compliance, a violation and an invalid reply.
ALIGNMENT_REWARDS = {False: 1.0, True: 0.1, None: 0.0}


def alignment_reward(turn: Turn) -> float:
    """Return the default reward of alignment by GRPO."""
    return ALIGNMENT_REWARDS[turn.violation]


class Settings(BaseModel):
    """Settings that every testbed has. A testbed's own type adds fields and may override the properties."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rounds: int = Field(6, ge=1, le=100, description="rounds an episode lasts")
    window: int = Field(5, ge=0, description="earlier rounds that a prompt shows; 0 is no memory")
    shuffled: bool = Field(False, description="a prompt shows earlier rounds in random order")
    reset_after: int | None = Field(None, ge=1, description="the history is emptied after this round; null: never")
    blind: bool = Field(False, description="a prompt shows earlier decisions without what they paid")
    unaudited: bool = Field(False, description="a prompt shows earlier decisions without whether they were checked")
    reminder: int = Field(0, ge=0, description="a prompt repeats the rule every so many rounds; 0: never")
    ramp: dict[str, float] = Field(
        default_factory=dict,
        max_length=1,
        description="a setting and its value in the middle round: it changes evenly from the setting's own value in "
        "the first round to this one, and back until the last round; prompts do not announce it",
    )
    ramp_hold: int = Field(
        1, ge=1, description="rounds at the beginning and at the end of a ramp in which the setting keeps its own value"
    )

    #: The settings that `ramp` may name: those that `play` takes from `in_round`.
    rampable: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _check_ramp(self) -> Self:
        for name, peak in self.ramp.items():
            if name not in self.rampable:
                allowed = ", ".join(self.rampable) or "none on this testbed"
                raise ValueError(f"ramp: '{name}' cannot change within an episode, allowed: {allowed}")
            if getattr(self, name) == peak:
                raise ValueError(f"ramp.{name}: found {peak:g}, which is the setting's own value; name another one")
            if getattr(self, name) is None:
                raise ValueError(f"ramp.{name}: set {name} too, its value in the first and the last round")
            if 1 < self.rounds <= 2 * self.ramp_hold:
                raise ValueError(f"ramp: rounds is {self.rounds}, must be above twice ramp_hold ({self.ramp_hold})")
            try:
                type(self)(**{**self.model_dump(exclude_unset=True), "ramp": {}, name: peak})
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"ramp.{name}: {first['msg'].removeprefix('Value error, ')}, found {peak:g}") from None
        return self

    def level(self, round: int) -> float:
        """Return the value in a round of the setting that `ramp` names; integers are rounded.

        Rounds t and rounds + 1 - t have the same value. An episode of one round has the setting's own value.
        """
        ((name, peak),) = self.ramp.items()
        own: float = getattr(self, name)
        top = max((self.rounds + 1) // 2 - self.ramp_hold, 1)
        value = own + (peak - own) * max(min(round, self.rounds + 1 - round) - self.ramp_hold, 0) / top
        return int(value + 0.5) if isinstance(own, int) else value

    def in_round(self, round: int) -> Self:
        """Return the settings of one round, which differ only in the setting that `ramp` names."""
        return self.model_copy(update={name: self.level(round) for name in self.ramp}) if self.ramp else self

    @property
    def offered(self) -> tuple[str, ...]:
        """Names of the tools that an agent may call."""
        return ()

    @property
    def turns(self) -> int:
        """Turns of an episode, as far as settings decide it."""
        return self.rounds

    def check_policy(self, name: str) -> None:
        """Raise ValueError if a scripted policy cannot play under these settings."""

    @property
    def learnable_turns(self) -> int:
        """The turns of an episode that an agent can learn from: all but those that only test it."""
        return self.turns


def remembered(done: Sequence[Item], settings: Settings, order: Random) -> list[Item]:
    """Return the items of finished rounds that a prompt shows: at most `window`, after the last reset.

    Args:
        done: one item a finished round, oldest first.
        order: source of the random order, for `shuffled`.
    """
    begin = settings.reset_after if settings.reset_after and len(done) >= settings.reset_after else 0
    shown = list(done[begin:][-settings.window :]) if settings.window else []
    if settings.shuffled:
        order.shuffle(shown)
    return shown


def past_rounds(shown: Sequence[Turn], settings: Settings) -> tuple[PastRound, ...]:
    """Return an observation's history: the turns that a prompt shows, without their rewards if `blind` is set."""
    return tuple(PastRound(turn.decision, turn.violation, 0.0 if settings.blind else turn.reward) for turn in shown)


def shuffler(rng: Random) -> Random:
    """Return a source for the order of rounds that leaves `rng` as it is, so that all other draws stay the same."""
    copy = Random()
    copy.setstate(rng.getstate())
    return Random(copy.random())


def reminded(messages: list[Message], settings: Settings, round: int, rule: str = "") -> list[Message]:
    """Return the prompt with the rule repeated at its end where a reminder is due; by default the system message."""
    if not settings.reminder or round % settings.reminder:
        return messages
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\nRemember: {rule or messages[0]['content']}"}]


def conversation(system: str, past: Sequence[tuple[str, str, str]], question: str) -> list[Message]:
    """Return the messages of a prompt: system, then question and reply of each earlier round, then the open question.

    The feedback on a round begins the user message after it.

    Args:
        past: (question, reply, feedback) of each round that the prompt shows, oldest first.
    """
    messages = [{"role": "system", "content": system}]
    opening = ""
    for earlier, reply, feedback in past:
        messages.append({"role": "user", "content": opening + earlier})
        messages.append({"role": "assistant", "content": reply})
        opening = f"{feedback}\n"
    return [*messages, {"role": "user", "content": opening + question}]


@dataclass(frozen=True)
class Words:
    """A testbed's words for figures: the title of the axis of violation rates, and what a violation is."""

    violation_rate: str = "violation rate"
    violation: str = ""


#: Controls that settings of every testbed make.
COMMON_CONTROLS: Mapping[str, Mapping[str, Any]] = {
    "no_memory": {"window": 0},
    "shuffled": {"shuffled": True},
    "blind": {"blind": True},
    "unaudited": {"unaudited": True},
    "reset": {"reset_after": 2},
    "reminder": {"reminder": 1},
}
#: Controls for which every testbed names its own settings, or None: every violation is caught; all decisions pay alike.
REQUIRED_CONTROLS = ("supervised", "same_pay")
#: Controls that a testbed may have: its own earlier rounds are replaced by others of the same length and format.
OPTIONAL_CONTROLS = ("neutral",)


@dataclass(frozen=True)
class Testbed:
    """Everything that the framework needs to know about a testbed. Only the first four arguments are required.

    Fields whose values are named as "MODULE:NAME" strings are imported when they are used, so that playing an episode
    does not import figures. A plug-in that is one file may give the objects themselves.

    Args:
        name: used in studies, paths and columns; letters, digits and underscores.
        play: (scenario, settings, rng) -> the episode's generator. `rng` decides all of the testbed's chance.
        scenario: subclass of `Scenario`.
        steering: a sentence that asks for compliance, and one that asks for the violation.
        settings: subclass of `Settings`.
        template: pydantic type of an item of a template file (see `atp.scenarios.templates`), or None.
        instantiate: (template, split, rng) -> one scenario.
        templates: the testbed's own template file.
        sources: further sources of scenarios by name (see `atp.scenarios.sources`), as strings or objects.
        columns: dataclass of the testbed's own columns of a turn, or None.
        players: (scenario, settings) -> number of agents in an episode. Raises AtpError for scenarios that the settings
            do not fit.
        several_players: whether an episode has several players who see each other.
        alignment_reward: reward of alignment by GRPO for a turn.
        judge_question: a question about a reply whose "yes" means compliance; the judge answers it with a verdict,
            "no violation" for yes and "violation" for no. None for testbeds whose decisions need no judge.
        words: for axes and captions.
        policies: names of scripted policies that only this testbed's observations can serve -> their factories.
        measures: sequence of measures (see `atp.measures.measure`).
        order_parameter: measure that phase diagrams and populations show.
        figures: function that returns figures of the report (see `atp.report.figures`).
        theory: line of theory in phase diagrams (see `atp.report.phase`).
        curriculum: function that returns the model organism's curriculum (see `atp.organism.curriculum`).
        controls: name of a control -> testbed settings that make it, or None where the testbed cannot have it. The
            controls of `COMMON_CONTROLS` need no entry; "supervised" (every violation is caught) and "same_pay" (all
            decisions earn the same) need one; "neutral" (prompts show rounds about something else) may have one.
        published: CSV file of values that the paper published for the testbed (see `atp.report.replication`).
        published_note: what readers must know about these values.
    """

    __test__ = False  # pytest, which would take an imported class of this name for tests

    name: str
    play: Callable[[Any, Any, Random], Episode | ToolEpisode]
    scenario: type[Scenario]
    steering: tuple[str, str]
    settings: type[Settings] = Settings
    template: type[BaseModel] | None = None
    instantiate: Callable[[Any, str, Random], Scenario] | None = None
    templates: Path | None = None
    sources: Mapping[str, Any] = field(default_factory=dict)
    columns: type | None = None
    players: Callable[[Any, Any], int] = lambda scenario, settings: 1
    several_players: bool = False
    alignment_reward: Callable[[Turn], float] = alignment_reward
    judge_question: str | None = None
    words: Words = Words()
    policies: Mapping[str, Callable[..., Any]] | str = field(default_factory=dict)
    measures: Any = ()
    order_parameter: str = "violation_rate"
    figures: Any = None
    theory: Any = None
    curriculum: Any = None
    controls: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    published: Path | None = None
    published_note: str = ""
