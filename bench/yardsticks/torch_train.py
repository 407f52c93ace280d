"""PyTorch + transformers training the shape of a config.json from random weights on random tokens: forward, backward, clipping, AdamW.
Prints one JSON object: seconds of each step, versions.

usage: torch_train.py CONFIG.json THREADS BATCH SEQUENCE STEPS [cpu|cuda] [float32|bfloat16] [eager|compile] [TOKEN_IDS]"""

import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch
import transformers


def main(config_path, threads, batch, sequence, steps, device="cpu", dtype="float32", how="eager", token_ids=None):
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(**json.load(open(config_path)))
    with torch.device(device):
        # Masters, gradients and optimizer state in float32, whatever type the config names; autocast computes in the type asked for.
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.float32)
    kept = {str(parameter.dtype) for parameter in model.parameters()}
    if kept != {"torch.float32"}:
        sys.exit(f"the weights are {kept}, not float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if how == "compile" else model
    mixed = torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
    tokens = torch.randint(0, min(int(token_ids or config.vocab_size), config.vocab_size), (int(batch), int(sequence)), device=device)
    seconds = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        with mixed:
            loss = run(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "about": {"torch": torch.__version__, "transformers": transformers.__version__}}))


main(*sys.argv[1:])
