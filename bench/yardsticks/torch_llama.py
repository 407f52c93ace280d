"""PyTorch + transformers on the shape of a config.json with random weights (speed does not depend on their values).

usage: torch_llama.py CONFIG.json THREADS [cpu|cuda] [float32|bfloat16]"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers

from protocol import CAPACITY, PROMPT_TOKENS, serve, timed


def main(config_path, threads, device="cpu", dtype="float32"):
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(**json.load(open(config_path)))
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=getattr(torch, dtype)).eval()
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    @torch.inference_mode()
    def decode(batch, steps):
        prompt = torch.randint(0, config.vocab_size, (batch, PROMPT_TOKENS), device=device)
        cache = transformers.StaticCache(config=config, max_cache_len=CAPACITY) if device == "cuda" else transformers.DynamicCache(config=config)
        state = {"tokens": model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)}

        def step():
            logits = model(state["tokens"], past_key_values=cache, use_cache=True).logits
            state["tokens"] = logits[:, -1].argmax(-1, keepdim=True)
            wait()

        return timed(step, steps)

    @torch.inference_mode()
    def prefill(tokens, repeats):
        prompt = torch.randint(0, config.vocab_size, (1, tokens), device=device)

        def step():
            model(prompt, use_cache=True, logits_to_keep=1).logits.argmax(-1)
            wait()

        return timed(step, repeats, warm_up=1)

    serve({"decode": decode, "prefill": prefill},
          {"torch": torch.__version__, "transformers": transformers.__version__, "threads": torch.get_num_threads(), "device": device, "dtype": dtype})


if __name__ == "__main__":
    main(*sys.argv[1:])
