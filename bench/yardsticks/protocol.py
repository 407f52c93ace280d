"""How a yardstick is asked to measure: it stays loaded between rounds and reads one request a line from standard input,

    decode BATCH STEPS      from a prompt of PROMPT_TOKENS tokens, one token per sequence and step, greedily
    prefill TOKENS REPEATS  one sequence, logits of the last position only

and answers each with one line of JSON: {"seconds": [one number per step or repeat]}. Every system gets a few untimed steps first.
It must not know what it is compared with, nor how the numbers are summarized."""

import json
import sys
import time

PROMPT_TOKENS = 8
WARM_UP = 4
CAPACITY = 512  # positions a decode cache has room for


def timed(step, count, warm_up=WARM_UP):
    """Seconds of each of `count` calls of `step`, after `warm_up` calls that are not counted."""
    seconds = []
    for _ in range(warm_up + count):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return seconds[warm_up:]


def serve(handlers, about):
    """Answers requests until standard input ends. `about` (versions, threads) is announced first."""
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not be taken for an answer
    print(json.dumps(about), file=out, flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        try:
            answer = {"seconds": handlers[what](*map(int, numbers))}
        except Exception as error:  # an out-of-memory or a missing kernel ends this figure, not the comparison
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=out, flush=True)
