"""What `transformers` makes of a model folder, or of a PEFT adapter on one, as JSON on standard output.

    check_export.py FOLDER --tokens '[[3, 17, 29], [5, 6]]' [--adapter FOLDER] [--greedy 24] [--text 'Hello'] [--dtype float32]

    token_ids     the prompts given
    log_probs     per prompt: natural log of the probability of token i given the tokens before it, for i >= 1
    greedy        per prompt: the tokens generated greedily by recomputing the whole text at each step, and `margins`, each
                  step's distance between the two best log-probabilities
    text_ids      with --text: its ids by the folder's tokenizer, special tokens that it adds included
    parameters    how many numbers the model holds, and the adapter's targets with --adapter

Weights and arithmetic are float32 unless another type is asked for. A weight that is missing from the files, or one in the files
that the model has no place for, is an error here: `transformers` and PEFT only warn, and go on with random numbers.
Exit status 77: a package that this needs is not there, so nothing was checked.
"""

import argparse
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
NOTHING_CHECKED = 77


def import_or_leave(*names):
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            print(f"nothing checked: {error}", file=sys.stderr)
            sys.exit(NOTHING_CHECKED)
    return [sys.modules[name] for name in names]


def load(folder, dtype):
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=dtype, local_files_only=True, output_loading_info=True)
    complain_of(folder, {key: found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")})
    return model.eval()


def with_adapter(model, folder):
    (peft,) = import_or_leave("peft")
    config = peft.PeftConfig.from_pretrained(folder)
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    weights = peft.utils.save_and_load.load_peft_weights(folder, device="cpu")
    complain_of(folder, {"not in its files": set(peft.get_peft_model_state_dict(adapted)) - set(weights),
                         "without a place": set(weights) - set(peft.get_peft_model_state_dict(adapted))})
    found = peft.set_peft_model_state_dict(adapted, weights)
    complain_of(folder, {"unexpected_keys": found.unexpected_keys})
    return adapted.eval(), config


def complain_of(folder, wrong):
    wrong = {what: sorted(map(str, names)) for what, names in wrong.items() if names}
    if wrong:
        sys.exit(f"{folder}: {wrong}")


def table_of(model, ids):
    """Log-probabilities of the next token after each of `ids`, in float64 of the model's logits."""
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0].double(), -1)


def greedy(model, prompt, count):
    ids, margins = list(prompt), []
    for _ in range(count):
        best = table_of(model, ids)[-1].topk(2)
        ids.append(int(best.indices[0]))
        margins.append(round(float(best.values[0] - best.values[1]), 7))
    return {"token_ids": ids[len(prompt):], "margins": margins}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--adapter", help="a PEFT adapter's folder, put on the model")
    parser.add_argument("--tokens", type=json.loads, default=[], help="prompts: a JSON list of lists of token ids")
    parser.add_argument("--greedy", type=int, default=0, help="how many tokens to generate after each prompt")
    parser.add_argument("--text", help="text for the folder's tokenizer")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16", "float64"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = load(arguments.folder, getattr(torch, arguments.dtype))
    out = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    if arguments.adapter:
        model, config = with_adapter(model, arguments.adapter)
        out["targets"] = sorted(config.target_modules)
    tables = [table_of(model, ids) for ids in arguments.tokens]
    out["token_ids"] = arguments.tokens
    out["log_probs"] = [[round(float(table[i, ids[i + 1]]), 7) for i in range(len(ids) - 1)] for ids, table in zip(arguments.tokens, tables)]
    out["greedy"] = [greedy(model, ids, arguments.greedy) for ids in arguments.tokens]
    if arguments.text is not None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.folder, local_files_only=True)
        out["text_ids"] = tokenizer.encode(arguments.text)
    print(json.dumps(out))


torch, transformers = import_or_leave("torch", "transformers")
if __name__ == "__main__":
    main()
