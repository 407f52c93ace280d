"""A plain JAX training step on the shape of a config.json with random weights and tokens: scanned layers, float32 masters, AdamW with
clipping, everything in one program with donated state. Rotary scaling is left out: it changes values, not time.
Prints one JSON object: seconds of each step, versions.

usage: jax_train.py CONFIG.json DEVICE DTYPE BATCH SEQUENCE STEPS TOKEN_IDS"""

import json
import sys
import time
from functools import partial

from jax_llama import random_weights, rms_norm, rotate  # first, since it says which device JAX may take
import jax
import jax.numpy as jnp
import numpy as np

LEARNING_RATE, BETAS, EPSILON, DECAY, CLIP = 3e-4, (0.9, 0.95), 1e-8, 0.1, 1.0


def layer(config, attention, dtype, positions, x, weights):
    cast = lambda name: weights[name].astype(dtype)
    h = rms_norm(x, weights["norm1"], config["rms_norm_eps"])
    query = rotate(jnp.einsum("bse,ehd->bshd", h, cast("q")), positions, config["rope_theta"])
    key = rotate(jnp.einsum("bse,ehd->bshd", h, cast("k")), positions, config["rope_theta"])
    value = jnp.einsum("bse,ehd->bshd", h, cast("v"))
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation=attention)
    x = x + jnp.einsum("bshd,hde->bse", attended, cast("o"))
    h = rms_norm(x, weights["norm2"], config["rms_norm_eps"])
    return x + (jax.nn.silu(h @ cast("gate")) * (h @ cast("up"))) @ cast("down"), None


def loss(config, attention, dtype, weights, tokens):
    """Mean cross entropy of the next token, in float32."""
    positions = jnp.arange(tokens.shape[1])
    x = weights["embed"].astype(dtype)[tokens]
    x, _ = jax.lax.scan(partial(layer, config, attention, dtype, positions), x, weights["layers"])
    x = rms_norm(x, weights["norm"], config["rms_norm_eps"])
    head = weights.get("head", weights["embed"]).astype(dtype)
    logits = jnp.einsum("bse,ve->bsv", x[:, :-1], head, preferred_element_type=jnp.float32)
    chosen = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def train_step(config, attention, dtype, weights, state, tokens):
    value, gradients = jax.value_and_grad(partial(loss, config, attention, dtype))(weights, tokens)
    norm = jnp.sqrt(sum(jnp.sum(gradient * gradient) for gradient in jax.tree.leaves(gradients)))
    clip = jnp.minimum(1.0, CLIP / (norm + 1e-6))
    count = state["count"] + 1

    def update(weight, gradient, first, second):
        gradient = gradient * clip
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient * gradient
        move = first / (1 - BETAS[0] ** count) / (jnp.sqrt(second / (1 - BETAS[1] ** count)) + EPSILON)
        decay = DECAY * weight if weight.ndim > 1 else 0.0
        return weight - LEARNING_RATE * (move + decay), first, second

    updated = jax.tree.map(update, weights, gradients, state["first"], state["second"])
    part = lambda index: jax.tree.map(lambda triple: triple[index], updated, is_leaf=lambda node: isinstance(node, tuple))
    return part(0), {"first": part(1), "second": part(2), "count": count}, value


def main(config_path, device, dtype, batch, sequence, steps, token_ids):
    config = json.load(open(config_path))
    weights = random_weights(config, jnp.float32)
    weights["layers"] = jax.tree.map(lambda *each: jnp.stack(each), *weights["layers"])
    zeros = lambda: jax.tree.map(jnp.zeros_like, weights)
    state = {"first": zeros(), "second": zeros(), "count": jnp.float32(0)}
    # Both in the type that is computed with; cuDNN's takes no float32.
    attention = "cudnn" if device == "cuda" and dtype == "bfloat16" else "xla"
    run = jax.jit(partial(train_step, config, attention, getattr(jnp, dtype)), donate_argnums=(0, 1))
    shape = (int(batch), int(sequence))
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, min(int(token_ids), config["vocab_size"]), shape), jnp.int32)
    seconds = []
    for _ in range(int(steps)):
        start = time.perf_counter()
        weights, state, value = run(weights, state, tokens)
        float(value)
        seconds.append(time.perf_counter() - start)
    if not np.isfinite(float(value)):
        sys.exit(f"the loss is {float(value)}")
    print(json.dumps({"seconds": seconds, "about": {"jax": jax.__version__, "device": str(jax.devices()[0]), "attention": attention, "last_loss": float(value)}}))


main(*sys.argv[1:])
