"""What the training goldens train on: token ids, their targets, documents packed into a row, and the loss of a batch.

A batch is `tokens`, `targets`, `segments` and `positions`, each [rows, sequence]. A target is the token that follows in the
same document, or IGNORE where nothing follows or no loss is wanted. Documents of a row are numbered from 1; 0 is padding.
Positions begin at 0 in every document.
"""

import numpy as np
import torch

from tiny_tokenizer import TEXT

IGNORE = -100


def batch(rows, masked=()):
    """`rows` are lists of documents, each a list of token ids; shorter rows are padded with token 0. `masked` are the
    (row, place) whose loss is not wanted."""
    length = max(sum(map(len, documents)) for documents in rows)
    shape = (len(rows), length)
    out = {"tokens": np.zeros(shape, np.int32), "targets": np.full(shape, IGNORE, np.int32),
           "segments": np.zeros(shape, np.int32), "positions": np.zeros(shape, np.int32)}
    for row, documents in enumerate(rows):
        start = 0
        for number, document in enumerate(documents, 1):
            end = start + len(document)
            out["tokens"][row, start:end] = document
            out["targets"][row, start:end - 1] = document[1:]
            out["segments"][row, start:end] = number
            out["positions"][row, start:end] = range(len(document))
            start = end
    for place in masked:
        out["targets"][place] = IGNORE
    return out


def gradient_batches():
    """`plain`, one document a row, and `packed`, several and some padding; [2, 24] both. The ids come from a small range, so that
    many occur more than once and an embedding's gradient has to be summed."""
    random = np.random.default_rng(7)

    def documents(*lengths):
        return [random.integers(3, 40, length).tolist() for length in lengths]

    return {
        "plain": batch([documents(24), documents(24)], masked=[(0, 0), (0, 1), (0, 2), (0, 11), (1, 17)]),
        "packed": batch([documents(10, 14), documents(9, 12)], masked=[(0, 3), (0, 10), (1, 9), (1, 10), (1, 15)]),
    }


def run_batches(steps, rows=4, length=32):
    """`tokens` and `targets`, [steps, rows, length]: pieces of a short text as bytes (all below 128), the token after a piece being
    its last target. The first targets of every row are masked, as a prompt's would be, and of the second half of the rows more of
    them: an average of averages over halves of a batch is not the average over the batch."""
    text = np.frombuffer(TEXT.encode("ascii"), np.uint8).astype(np.int32)
    random = np.random.default_rng(11)
    starts = random.integers(0, len(text) - length, (steps, rows))
    pieces = np.stack([[text[start:start + length + 1] for start in row] for row in starts])
    tokens, targets = pieces[..., :-1].copy(), pieces[..., 1:].copy()
    masked = random.integers(0, 6, (steps, rows))
    masked[:, rows // 2:] += 12
    targets[np.arange(length) < masked[..., None]] = IGNORE
    return {"tokens": tokens, "targets": targets}


def allowed(segments, window=None):
    """Which keys a query sees, [rows, sequence, sequence]: those of its own document that do not come after it and, given
    a window, are less than so many places back."""
    place = torch.arange(segments.shape[1])
    back = place[:, None] - place[None, :]
    seen = (segments[:, :, None] == segments[:, None, :]) & (back >= 0)
    return seen if window is None else seen & (back < window)


def logits(model, tokens, segments=None, positions=None, window=None):
    """Without segments, masks and positions are the business of `transformers`."""
    if segments is None:
        return model(torch.tensor(tokens).long(), use_cache=False).logits
    mask = torch.zeros(segments.shape[0], 1, *[segments.shape[1]] * 2, dtype=model.dtype)
    mask.masked_fill_(~allowed(torch.tensor(segments), window)[:, None], torch.finfo(model.dtype).min)
    return model(torch.tensor(tokens).long(), attention_mask=mask, position_ids=torch.tensor(positions).long(), use_cache=False).logits


def cross_entropy_sum(scores, targets):
    """And how many targets there are; in the precision of the scores."""
    targets = torch.tensor(targets).long()
    total = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return total, int((targets != IGNORE).sum())
