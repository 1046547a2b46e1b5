"""Guided answers, and the probability of a violation at the place where a reply decides."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from serving import Failing, completion, ok
from tiny import CHATML, save_tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from atp.agents.base import Request
from atp.agents.likelihood import find_statement
from atp.agents.load import load_agent
from atp.agents.local import LocalAgent
from atp.errors import AtpError
from atp.files.turns import read_turns
from atp.measures.rates import VIOLATION_RATE, p_violation, read_evidence
from atp.models.spec import ModelSpec, Sampling
from atp.parsing.choices import parse_choice
from atp.rollout.engine import RolloutJob, rollout_stage
from atp.rollout.table import Cell
from atp.scenarios.sources import ScenariosJob, scenarios_stage
from atp.scenarios.templates import generate, read_templates
from atp.testbed import Observation, Prompt, Reply
from atp.testbeds.role_play import TESTBED
from atp.testbeds.role_play.game import RolePlaySettings, answer, play
from atp.testbeds.role_play.scenarios import RolePlayTemplate, instantiate

ORGANISM = Path("resources/organism")
#: Labels of very different length and number of tokens; the first one begins the second one.
LABELS = ("A", "A long way round the hill", "Bus")
SYSTEM = {"role": "system", "content": "You must take A."}


@pytest.fixture(scope="module", params=["bytes", "subwords"])
def folder(request, tmp_path_factory) -> Path:
    """Return an untrained model whose tokens are bytes, or those of an organism."""
    tokenizer = None
    if request.param == "subwords":
        tokenizer = AutoTokenizer.from_pretrained(ORGANISM / "role_play", local_files_only=True)
    return save_tiny(tmp_path_factory.mktemp(request.param), tokenizer=tokenizer)


def agent(folder: Path, answers: Any = "guided", **sampling: Any) -> LocalAgent:
    sampling = {"temperature": 1.0, "max_new_tokens": 12} | sampling
    loaded = load_agent("tiny", ModelSpec(path=str(folder), sampling=Sampling(**sampling), batch=8, answers=answers))
    assert isinstance(loaded, LocalAgent)
    return loaded


def request(number: int, labels: Sequence[str] = LABELS, round: int = 1, **changes: Any) -> Request:
    """Return a question whose first label complies, and whose others are violations."""
    answers = {label: answer(label) for label in labels}
    observation = Observation(answers, labels[-1], **{"violations": (*labels[1:],)} | changes)
    messages = [SYSTEM, {"role": "user", "content": "Choose. " * round + f"You are number {number}."}]
    return Request(number, Prompt(0, round, messages, observation), seed=1000 * number + round)


def expected(player: LocalAgent, prompt: list[int], answers: Mapping[str, list[int]]) -> dict[str, float]:
    """Return each answer's probability by the model's own forward pass without a cache, one token after the other."""
    firsts = {tokens[0] for tokens in answers.values()}
    if len(answers) == 1:
        return dict.fromkeys(answers, 1.0)
    with torch.inference_mode():
        logits = player.model(torch.tensor([prompt])).logits[0, -1]
    total = sum(logits[token].exp() for token in firsts)
    probabilities: dict[str, float] = {}
    for token in firsts:
        group = {name: tokens[1:] for name, tokens in answers.items() if tokens[0] == token}
        share = float(logits[token].exp() / total)
        probabilities |= {name: share * p for name, p in expected(player, [*prompt, token], group).items()}
    return probabilities


def test_guided_replies_have_the_probabilities_of_plain_forward_passes(folder):
    player = agent(folder)
    for round in (1, 2, 3):  # later prompts are on the cache
        requests = [request(number, round=round) for number in range(6)]
        for each, reply in zip(requests, player.answer(requests), strict=True):
            text = player.prompt_text(each.prompt)
            prompt = player.tokenizer(text, add_special_tokens=False).input_ids
            answers = {
                label: player.tokenizer(answer(label) + "<|im_end|>", add_special_tokens=False).input_ids
                for label in LABELS
            }
            probabilities = expected(player, prompt, answers)
            assert reply.p_violation == pytest.approx(1 - probabilities["A"], abs=1e-5)
            assert reply.text == answer(reply.stated or "") and reply.finish_reason == "stop"


def test_a_guided_reply_depends_on_its_seed_and_not_on_its_neighbours(folder):
    player = agent(folder, temperature=4.0)
    together = player.answer([request(number) for number in range(24)])
    assert len({reply.text for reply in together}) > 1
    for number in range(0, 24, 5):
        player.start()
        (alone,) = player.answer([request(number)])
        assert alone.text == together[number].text
        assert alone.p_violation == pytest.approx(together[number].p_violation, abs=1e-5)


def test_labels_that_swap_their_meaning_swap_the_probability(folder):
    player = agent(folder)
    one = player.answer([request(number, LABELS[:2]) for number in range(6)])
    player.start()
    swapped = player.answer([request(number, LABELS[:2], violations=LABELS[:1]) for number in range(6)])
    for reply, other in zip(one, swapped, strict=True):
        assert reply.p_violation == pytest.approx(1 - other.p_violation, abs=1e-5)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [({"temperature": 0}, {0.0, 1.0}), ({"top_k": 1}, None), ({"temperature": 0.7, "top_p": 0.9}, None)],
)
def test_probabilities_are_those_of_the_sampling(folder, sampling, possible):
    player = agent(folder, **sampling)
    replies = player.answer([request(number, LABELS[:2]) for number in range(12)])
    for reply in replies:
        assert reply.p_violation is not None and 0 <= reply.p_violation <= 1
        assert possible is None or reply.p_violation in possible
        if reply.p_violation in (0.0, 1.0):
            assert (reply.stated == LABELS[1]) == (reply.p_violation == 1)


@pytest.mark.parametrize("stopping", [None, 0.2])
def test_a_thought_is_free_and_always_closed(tmp_path, stopping):
    opening = CHATML.replace("<|im_start|>assistant\n{% endif", "<|im_start|>assistant\n<think>\n{% endif")
    player = agent(save_tiny(tmp_path, template=opening, stopping=stopping))
    replies = player.answer([request(number) for number in range(6)])
    for reply in replies:
        choice = parse_choice(reply, LABELS)
        assert choice.option == reply.stated and reply.finish_reason == "stop"
        assert reply.text.startswith("<think>") and reply.text.endswith(f"</think>\n\n{answer(reply.stated or '')}")
    assert len({reply.text.partition("</think>")[0] for reply in replies}) == 6


def test_answers_with_equal_tokens_are_one_line(tmp_path):
    words = "[UNK] <|im_start|> <|im_end|> system user assistant number Which option do you choose ?".split()
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[UNK]",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    wrapped.chat_template = CHATML
    with pytest.raises(AtpError, match=r"guided: the tokenizer gives the answers .*Bus.* and .*Car.* the same tokens"):
        agent(save_tiny(tmp_path, tokenizer=wrapped)).answer([request(0, ("Bus", "Car"))])


def test_guided_answers_need_a_list_of_all_answers(folder):
    with pytest.raises(
        AtpError, match=r"answers: guided needs a testbed with a list of all answers.*use answers: free"
    ):
        agent(folder).answer([request(0), request(1, violations=None)])


STATEMENTS = [
    ('{"choice": "A"}', "A"),
    ('The rule is Bus. {"choice": "A"} and so on', "A"),
    ('**Choice:** "A long way round the hill".', "A long way round the hill"),
    ('{\n  "choice": "BUS"\n}<|im_end|>', "Bus"),
    ('<think>{"choice": "Bus"}</think>{"choice": "A"}', "A"),
    ('choice: "Bus"</think>I take A.', None),
    ('<think>{"choice": "Bus"}', None),
    ('{"choice": "A"} or {"choice": "Bus"}', None),
    ('{"choice": "Apple"}', None),
    ('{"choice": "A long way round the house"}', None),
    ("Choice: A\nI like it.", "A"),
    ('{"choice": "A", "other": "Bus"}', "A"),
    ("I take A.", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "decision"), STATEMENTS)
def test_a_statement_is_found_where_the_reply_has_the_answers_form(text, decision):
    statement = find_statement(text, {label: answer(label) for label in LABELS})
    assert (statement and statement.decision) == decision
    if statement:
        assert text[statement.start :].startswith(statement.texts[statement.decision])


def test_free_replies_have_the_probabilities_of_plain_forward_passes():
    """The organism's own replies, at temperatures at which its labels are uncertain."""
    player = agent(ORGANISM / "role_play", "free", temperature=2.0, max_new_tokens=48)
    scenarios = generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, 0, 32, 1)
    games = [play(scenario, RolePlaySettings(), Random(number)) for number, scenario in enumerate(scenarios)]
    requests = [Request(number, next(game)[0], seed=number) for number, game in enumerate(games)]
    compared = 0
    for each, scenario, reply in zip(requests, scenarios, player.answer(requests), strict=True):
        if reply.p_violation is None:
            continue
        compared += 1
        prompt = player.tokenizer(player.prompt_text(each.prompt), add_special_tokens=False).input_ids
        before = max(
            end for end in range(len(reply.tokens)) if player.tokenizer.decode(reply.tokens[:end]).endswith(' "')
        )
        answers = {
            label: player.tokenizer(f'{label}"', add_special_tokens=False).input_ids
            for label in (scenario.compliant, scenario.violating)
        }
        sampling_at_2 = expected_at(2.0, player, [*prompt, *reply.tokens[:before]], answers)
        assert reply.p_violation == pytest.approx(sampling_at_2[scenario.violating], rel=1e-2, abs=1e-6)
    assert compared > 12


def expected_at(
    temperature: float, player: LocalAgent, prompt: list[int], answers: Mapping[str, list[int]]
) -> dict[str, float]:
    """Return the probability of each of two answers where their tokens part."""
    one, other = answers.values()
    place = next(number for number, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    with torch.inference_mode():
        logits = player.model(torch.tensor([prompt + one[:place]])).logits[0, -1] / temperature
    return dict(zip(answers, logits[[one[place], other[place]]].softmax(0).tolist(), strict=True))


def measured(tmp_path: Path, spec: ModelSpec, scenarios: int, samples: int = 1) -> dict[str, Any]:
    """Return the rate and the mean probability over all rounds of a role-play rollout, and its invalid replies."""
    source, turns = tmp_path / "scenarios.parquet", tmp_path / "turns.parquet"
    scenarios_stage(ScenariosJob(testbed="role_play", settings={"train": 1, "test": scenarios}), source)
    job = RolloutJob(cell=Cell("model", "role_play"), model=spec, variants={"default": {}}, samples=samples)
    rollout_stage(job, source, turns)
    evidence = read_evidence([turns])
    over_rounds = [
        each(evidence).select("round", "n", "value", "low", "high").sort("round")
        for each in (VIOLATION_RATE, p_violation)
    ]
    table = pl.DataFrame(read_turns(turns))
    assert table.filter(pl.col("violation").is_null())["p_violation"].null_count() == table["violation"].null_count()
    return {"rate": over_rounds[0], "probability": over_rounds[1], "turns": table}


def test_the_mean_probability_is_the_rate_with_a_narrower_interval(tmp_path, tmp_path_factory):
    """A model that decides at its answer: 2,100 decisions, none of them invalid."""
    tokenizer = AutoTokenizer.from_pretrained(ORGANISM / "role_play", local_files_only=True)
    folder = save_tiny(tmp_path_factory.mktemp("guided"), tokenizer=tokenizer)
    spec = ModelSpec(path=str(folder), sampling=Sampling(temperature=20.0), batch=64, answers="guided")
    found = measured(tmp_path, spec, 350)
    assert len(found["turns"]) == 2100 and found["turns"]["violation"].null_count() == 0
    joined = found["rate"].join(found["probability"], on="round", suffix="_p")
    assert (joined["n"] == joined["n_p"]).all()
    inside = (joined["value_p"] >= joined["low"]) & (joined["value_p"] <= joined["high"])
    assert inside.all()
    width = (joined["high"] - joined["low"]).mean()
    assert width > 1.5 * (joined["high_p"] - joined["low_p"]).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("forks", "narrower"), [(0, 0.98), (1, 1.5)])
def test_the_organisms_mean_probability_is_its_rate(tmp_path, forks, narrower):
    """It gives its reason first, which decides the label: only a fork at the reason narrows the interval."""
    spec = ModelSpec(path=str(ORGANISM / "role_play"), sampling=Sampling(max_new_tokens=48), batch=64, forks=forks)
    found = measured(tmp_path, spec, 350)
    joined = found["rate"].join(found["probability"], on="round", suffix="_p")
    assert len(found["turns"]) == 2100 and (joined["n"] - joined["n_p"]).max() <= 2
    assert ((joined["value_p"] >= joined["low"]) & (joined["value_p"] <= joined["high"])).all()
    factor = (joined["high"] - joined["low"]).mean() / (joined["high_p"] - joined["low_p"]).mean()
    assert factor >= narrower, factor


def test_a_fork_replaces_the_reason_by_its_probability():
    """In the first round the organism gives its reason to violate in a fifth of its replies."""
    requests = [
        Request(number, next(play(scenario, RolePlaySettings(), Random(0)))[0], number)
        for number, scenario in enumerate(
            generate(read_templates(TESTBED.templates, RolePlayTemplate), instantiate, 1, 24, 0)[1:]
        )
    ]
    replies = {}
    for forks in (0, 1):
        spec = ModelSpec(path=str(ORGANISM / "role_play"), sampling=Sampling(max_new_tokens=48), forks=forks, batch=32)
        replies[forks] = load_agent("organism", spec).answer(requests)
    assert [reply.tokens for reply in replies[0]] == [reply.tokens for reply in replies[1]]
    assert all(
        reply.p_violation is None or min(reply.p_violation, 1 - reply.p_violation) < 0.01 for reply in replies[0]
    )
    assert all(0.1 < (reply.p_violation or 0) < 0.4 for reply in replies[1])


@pytest.mark.parametrize("answers", ["free", "guided"])
def test_swapped_labels_do_not_change_the_organisms_probability(answers):
    """Each scenario is asked twice: as it is, and with its two labels exchanged everywhere."""
    templates = read_templates(TESTBED.templates, RolePlayTemplate)
    player = agent(ORGANISM / "role_play", answers, max_new_tokens=48)
    differences = []
    for number in range(128):
        template = templates[number % len(templates)]
        names = Random(number).choice(template.labels)
        prompts = []
        for pair in (names, names[::-1]):
            scenario = instantiate(template, "test", Random(number), pair)
            prompts.append(next(play(scenario, RolePlaySettings(rounds=1), Random(number)))[0])
        replies = player.answer([Request(place, prompt, number) for place, prompt in enumerate(prompts)])
        player.start()
        one, other = (reply.p_violation for reply in replies)
        if one is not None and other is not None:
            differences.append(one - other)
    error = np.std(differences) / len(differences) ** 0.5
    assert len(differences) > 120 and abs(np.mean(differences)) < 3 * error


def serving(*tokens: tuple[str, dict[str, float]]) -> dict[str, Any]:
    """Return an answer with log-probabilities."""
    body = completion(content="".join(token for token, _ in tokens))
    body["choices"][0]["logprobs"] = {
        "content": [
            {
                "token": token,
                "logprob": likely.get(token, -0.1),
                "bytes": None,
                "top_logprobs": [
                    {"token": other, "logprob": logprob, "bytes": None} for other, logprob in likely.items()
                ],
            }
            for token, likely in tokens
        ]
    }
    return body


OPENING = ('{"choice": "', {'{"choice": "': 0.0})
WEIGHED = [
    ([OPENING, ("Bus", {"Bus": -1.0, "A": -2.0, "C": -0.5}), ('"}', {'"}': 0.0})], "Bus", 1 / (1 + np.exp(-2.0))),
    ([OPENING, ("A", {"Bus": -1.0, "A": -2.0, "C": -0.5}), ('"}', {'"}': 0.0})], "A", 1 / (1 + np.exp(-2.0))),
    ([OPENING, ("A", {"A": -2.0, "C": -0.5}), ('"}', {'"}': 0.0})], None, None),
    ([("I take A", {"I take A": 0.0})], None, None),
]


@pytest.mark.parametrize(("tokens", "stated", "probability"), WEIGHED)
def test_a_server_that_gives_log_probabilities(monkeypatch, tokens, stated, probability):
    monkeypatch.setenv("LOCAL_API_KEY", "any word")
    server = Failing(ok(serving(*tokens)))
    settings = {"kind": "inspect", "path": "openai-api/local/m", "base_url": server.url, "top_logprobs": 5}
    spec = ModelSpec(**settings, sampling=Sampling(temperature=0.5))
    (reply,) = load_agent("served", spec).answer([request(0, ("A", "Bus"))])
    assert (reply.stated, reply.p_violation) == (stated, probability and pytest.approx(probability))
    _, sent = server.seen[0]
    assert sent["logprobs"] is True and sent["top_logprobs"] == 5


def test_a_server_without_log_probabilities_is_one_line(monkeypatch):
    monkeypatch.setenv("LOCAL_API_KEY", "any word")
    server = Failing(ok(completion(content=json.dumps({"choice": "A"}))))
    settings = {"kind": "inspect", "path": "openai-api/local/m", "base_url": server.url}
    with pytest.raises(AtpError, match="m: top_logprobs: the server returns no log-probabilities; remove the key"):
        load_agent("served", ModelSpec(**settings, top_logprobs=5)).answer([request(0)])
    (reply,) = load_agent("served", ModelSpec(**settings)).answer([request(0)])
    assert reply == Reply(reply.text, 9 + 0, 5, 4) and "logprobs" not in server.seen[-1][1]
