"""A process that holds a model in vLLM: requests and answers are lines of JSON on its standard input and output.

It runs in the Python that has vLLM, which may have no atp. `atp.agents.vllm` starts it and has the other side. The
first line has the fields of vLLM's `EngineArgs` and the folder of a LoRA adapter. The answer has vLLM's version and the
largest number of tokens of a prompt and its reply. Each later line has the arguments of `add`.
"""

import json
import os
import queue
import signal
import sys
from threading import Thread
from typing import Any


def main() -> None:
    """Load a model and answer requests until standard input ends, which it does when the parent process has ended."""
    # A rollout that is stopped finishes its episodes first, and the signal may reach all processes of a job.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # vLLM's output belongs to the log

    def send(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    arguments = json.loads(sys.stdin.readline())
    try:
        import vllm

        engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**arguments["engine"]))
    except Exception as error:
        send(error=_first_line(error))
        raise
    send(version=vllm.__version__, max_tokens=engine.model_config.max_model_len)
    lines: queue.Queue[str] = queue.Queue()
    Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        while not (engine.has_unfinished_requests() and lines.empty()):
            request = json.loads(lines.get())
            try:
                add(engine, arguments["adapter"], **request)
            except Exception as error:  # of any kind: an adapter that vLLM cannot use, a prompt that is too long
                send(id=request["id"], error=_first_line(error))
        for output in engine.step():
            if output.finished:
                send(**_answer(output))


def add(engine: Any, adapter: str | None, id: int, prompt: list[int], sampling: dict[str, Any], adapted: bool) -> None:
    """Add a request to an engine.

    Args:
        adapter: folder of the LoRA adapter that `adapted` requests use.
        id: of the request, and of the answer to it.
        prompt: token ids.
        sampling: fields of vLLM's `SamplingParams`.
    """
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    params = SamplingParams(**sampling, ignore_eos=True, detokenize=False)
    lora = LoRARequest("adapter", 1, adapter) if adapter and adapted else None
    engine.add_request(str(id), {"prompt_token_ids": prompt}, params, lora_request=lora)


def _answer(output: Any) -> dict[str, Any]:
    """Return the answer to a finished request.

    If asked for, `log_probabilities` has those of the prompt's tokens, and `next` the first new token's: token id ->
    log-probability.
    """
    completion, scores = output.outputs[0], output.prompt_logprobs
    pairs = zip(output.prompt_token_ids, scores or (), strict=False)
    first = completion.logprobs[0] if completion.logprobs else {}
    return {
        "id": int(output.request_id),
        "tokens": [*completion.token_ids],
        "finish": completion.finish_reason,
        "cached": output.num_cached_tokens or 0,
        "log_probabilities": [entry[token].logprob if entry else None for token, entry in pairs],
        "next": {token: entry.logprob for token, entry in first.items()},
    }


def _read(lines: "queue.Queue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os.killpg(0, signal.SIGKILL)  # this process and its children, which are a session of their own


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else repr(error)


if __name__ == "__main__":
    main()
