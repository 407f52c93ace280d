"""A plain JAX Llama with unrolled layers (on a CPU, scanned ones decode three times slower) and a donated KV cache, on
the shape of a config.json with random weights. Rotary scaling is left out: it changes values, not time.

usage: jax_llama.py CONFIG.json [cpu|cuda] [float32|bfloat16]"""

import json
import os
import sys
from functools import partial

# Named, so that a missing GPU is an error here and not a quiet measurement of the CPU.
os.environ["JAX_PLATFORMS"] = sys.argv[2] if len(sys.argv) > 2 else "cpu"
import jax
import jax.numpy as jnp
import numpy as np

from protocol import CAPACITY, PROMPT_TOKENS, serve, timed


def rms_norm(x, weight, epsilon):
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + epsilon)
    return (wide * scale * weight).astype(x.dtype)


def rotate(x, positions, theta):
    half = x.shape[-1] // 2
    angles = positions[:, None] * theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def forward(config, weights, cache, tokens, start):
    """tokens [batch, seq] written at positions start..start+seq; returns the greedy next token [batch] and the cache."""
    length = tokens.shape[1]
    positions = start + jnp.arange(length)
    x = weights["embed"][tokens]
    new_cache = []
    for layer, (keys, values) in zip(weights["layers"], cache):
        h = rms_norm(x, layer["norm1"], config["rms_norm_eps"])
        query = rotate(jnp.einsum("bse,ehd->bshd", h, layer["q"]), positions, config["rope_theta"])
        key = rotate(jnp.einsum("bse,ehd->bshd", h, layer["k"]), positions, config["rope_theta"])
        value = jnp.einsum("bse,ehd->bshd", h, layer["v"])
        keys = jax.lax.dynamic_update_slice(keys, key, (0, start, 0, 0))
        values = jax.lax.dynamic_update_slice(values, value, (0, start, 0, 0))
        new_cache.append((keys, values))
        visible = (jnp.arange(keys.shape[1])[None] <= positions[:, None])[None, None]
        attended = jax.nn.dot_product_attention(query, keys, values, mask=visible)
        x = x + jnp.einsum("bshd,hde->bse", attended, layer["o"])
        h = rms_norm(x, layer["norm2"], config["rms_norm_eps"])
        x = x + (jax.nn.silu(h @ layer["gate"]) * (h @ layer["up"])) @ layer["down"]
    last = rms_norm(x[:, -1], weights["norm"], config["rms_norm_eps"])
    logits = jnp.einsum("be,ve->bv", last, weights.get("head", weights["embed"]))
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), new_cache


def random_weights(c, dtype):
    random = np.random.default_rng(0)
    make = lambda *shape: jnp.asarray(random.standard_normal(shape, np.float32) * 0.02, dtype)
    ones = lambda: jnp.ones(c["hidden_size"], jnp.float32)
    e, f, h, kv, d = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    layer = lambda: dict(norm1=ones(), norm2=ones(), q=make(e, h, d), k=make(e, kv, d), v=make(e, kv, d), o=make(h, d, e),
                         gate=make(e, f), up=make(e, f), down=make(f, e))
    weights = dict(embed=make(c["vocab_size"], e), norm=ones(), layers=[layer() for _ in range(c["num_hidden_layers"])])
    if not c["tie_word_embeddings"]:
        weights["head"] = make(c["vocab_size"], e)
    return weights


def main(config_path, device="cpu", dtype="float32"):
    config = json.load(open(config_path))
    dtype = getattr(jnp, dtype)
    weights = random_weights(config, dtype)
    run = jax.jit(partial(forward, config), donate_argnums=1)

    def empty_cache(batch, capacity):
        block = lambda: jnp.zeros((batch, capacity, config["num_key_value_heads"], config["head_dim"]), dtype)
        return [(block(), block()) for _ in range(config["num_hidden_layers"])]

    def decode(batch, steps):
        state = {"tokens": jnp.zeros(batch, jnp.int32), "cache": empty_cache(batch, CAPACITY), "position": PROMPT_TOKENS}

        def step():
            state["tokens"], state["cache"] = run(weights, state["cache"], state["tokens"][:, None], jnp.int32(state["position"]))
            state["tokens"].block_until_ready()
            state["position"] += 1

        return timed(step, steps)

    def prefill(tokens, repeats):
        prompt = jnp.asarray(np.random.default_rng(1).integers(0, config["vocab_size"], (1, tokens)), jnp.int32)
        state = {"cache": empty_cache(1, tokens)}

        def step():
            token, state["cache"] = run(weights, state["cache"], prompt, jnp.int32(0))
            token.block_until_ready()

        return timed(step, repeats, warm_up=1)

    serve({"decode": decode, "prefill": prefill}, {"jax": jax.__version__, "device": str(jax.devices()[0]), "dtype": dtype.__name__})


if __name__ == "__main__":
    main(*sys.argv[1:])
