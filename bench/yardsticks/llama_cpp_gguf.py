"""llama.cpp (by way of llama-cpp-python) on a GGUF file.

usage: llama_cpp_gguf.py MODEL.gguf THREADS"""

import sys

import llama_cpp
import numpy as np

from protocol import CAPACITY, PROMPT_TOKENS, serve, timed


class Context:
    """A context for some number of sequences, and batches given as (token, position, sequence, wants logits)."""

    def __init__(self, model, sequences, capacity, threads):
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = sequences * capacity
        parameters.n_batch = parameters.n_ubatch = capacity
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.context = llama_cpp.llama_init_from_model(model, parameters)
        self.batch = llama_cpp.llama_batch_init(max(capacity, sequences * PROMPT_TOKENS), 0, 1)

    def run(self, rows):
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wants_logits
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        wanted = [i for i, row in enumerate(rows) if row[3]]
        logits = lambda i: np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i), (self.vocabulary,))
        return [int(logits(i).argmax()) for i in wanted]

    def forget(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def close(self):
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)


def main(path, threads):
    llama_cpp.llama_backend_init()
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        sys.exit(f"llama.cpp could not load {path}")

    def decode(batch, steps):
        context = Context(model, batch, CAPACITY, int(threads))
        tokens = context.run([(100 + i, i, s, i == PROMPT_TOKENS - 1) for s in range(batch) for i in range(PROMPT_TOKENS)])
        state = {"tokens": tokens, "position": PROMPT_TOKENS}

        def step():
            state["tokens"] = context.run([(token, state["position"], s, True) for s, token in enumerate(state["tokens"])])
            state["position"] += 1

        seconds = timed(step, steps)
        context.close()
        return seconds

    def prefill(tokens, repeats):
        context = Context(model, 1, tokens, int(threads))
        rows = [(100 + i, i, 0, i == tokens - 1) for i in range(tokens)]

        def step():
            context.forget()
            context.run(rows)

        seconds = timed(step, repeats, warm_up=1)
        context.close()
        return seconds

    serve({"decode": decode, "prefill": prefill},
          {"llama-cpp-python": llama_cpp.__version__, "threads": int(threads), "system": llama_cpp.llama_print_system_info().decode().strip()})


if __name__ == "__main__":
    main(*sys.argv[1:])
