"""Studies that several tests plan."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SMALL = (ROOT / "tests/workflow/study.yaml").read_text()
#: Conditions that change the training, and one with transplanted histories.
DEFENDED = {
    "baseline": {},
    "transplanted_history": {"history_from": {"alignment": "none"}},
    "rehearsal": {"training": {"rehearsal": 0.25}},
    "kl": {"training": {"kl": 0.1}},
    "interpolate": {"training": {"interpolate": 0.5}},
    "drop_caught": {"filter": {"drop_caught": True}},
    "max_violation_increase": {"training": {"max_violation_increase": 0.1}},
}


def defended(**changes: object) -> str:
    """Return the small study with these conditions, two generations and two seeds."""
    study = yaml.safe_load(SMALL) | {"seeds": [0, 1]} | changes
    section = study["testbeds"]["role_play"]
    section["conditions"], section["scenarios"]["train"] = DEFENDED, 2 * 8 + 8 + 64
    section["context"]["conditions"] = ["baseline", "transplanted_history"]
    section["weights"] |= {
        "generations": 2,
        "conditions": [condition for condition in DEFENDED if condition != "transplanted_history"],
    }
    return yaml.safe_dump(study)


STUDIES = {
    **{path.stem: path.read_text() for path in sorted((ROOT / "config/studies").glob("*.yaml"))},
    "sharded": f"shards: 3\nseeds: [0, 1]\n{SMALL}",
    "split_by_size": (ROOT / "config/studies/paper_role_play.yaml").read_text().replace("test: 64", "test: 640"),
    "defended": defended(),
    "defended_without_alignment": defended(alignments=["none"], shards=2),
    "populations": (ROOT / "tests/workflow/populations.yaml").read_text(),
    "without_a_filter": SMALL.replace("      filter: {name: best_of_n}\n", "").replace("method: sft", "method: grpo"),
}
