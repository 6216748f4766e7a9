"""AS-MLP, ViP and S²-MLPv2 in plain numpy, written from their papers, token by token.

Each takes our parameters, images (b, h, w, channels) and the variant, computes in float64, and
returns what comes out of every layer of interest by its name, and the "logits". A kernel is
(inputs, outputs). Where an axis stands for several things, they are in the order in which the
function's comments name them, the last the fastest.
"""

import math

import numpy as np

Outputs = dict[str, np.ndarray]
_ERF = np.vectorize(math.erf)


def _array(x) -> np.ndarray:  # noqa: ANN001
    return np.asarray(x, np.float64)


def _linear(x: np.ndarray, p: dict, bias: bool = True) -> np.ndarray:
    assert ("bias" in p) == bias
    y = x @ _array(p["kernel"])
    return y + _array(p["bias"]) if bias else y


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + _ERF(x / math.sqrt(2)))


def _normalise(x: np.ndarray, axes: tuple[int, ...], p: dict, eps: float) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)
    return x * _array(p["scale"]) + _array(p["bias"])


def _layer_norm(x: np.ndarray, p: dict, eps: float) -> np.ndarray:
    return _normalise(x, (-1,), p, eps)


def _group_norm(x: np.ndarray, p: dict, eps: float) -> np.ndarray:
    """Of one group: statistics of an image over its grid and its channels together."""
    return _normalise(x, (1, 2, 3), p, eps)


def _cut(x: np.ndarray, patch: int) -> np.ndarray:
    """A patch as one vector: (row, column, channel) within it."""
    b, h, w, c = x.shape
    y = np.zeros((b, h // patch, w // patch, patch * patch * c))
    for i in range(h // patch):
        for j in range(w // patch):
            square = x[:, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            y[:, i, j] = square.reshape(b, -1)
    return y


def _channel_mlp(x: np.ndarray, p: dict) -> np.ndarray:
    return _linear(_gelu(_linear(x, p["fc_in"])), p["fc_out"])


def _split_attention(branches: list[np.ndarray], p: dict, bias: bool) -> np.ndarray:
    """S²-MLPv2, Equation 2, and ViP's "weighted": a softmax over the branches, by channel.

    Biases are ViP's; Equation 2 has none. The second layer's K c outputs are (branch, channel).
    """
    b, _, _, c = branches[0].shape
    pooled = sum(branches).mean((1, 2))
    logits = _linear(_gelu(_linear(pooled, p["fc_in"], bias)), p["fc_out"], bias)
    fused = np.zeros_like(branches[0])
    for image in range(b):
        for channel in range(c):
            over = [math.exp(logits[image, k * c + channel]) for k in range(len(branches))]
            for branch, weight in zip(branches, over, strict=True):
                fused[image, ..., channel] += branch[image, ..., channel] * weight / sum(over)
    return fused


def _fuse(branches: list[np.ndarray], p: dict, how: str, bias: bool) -> np.ndarray:
    if how == "split_attention":
        return _split_attention(branches, p, bias)
    return sum(branches) / (len(branches) if how == "mean" else 1)


# AS-MLP, arXiv 2107.08391 -----------------------------------------------------------------------


def _source(index: int, length: int, border: str) -> int | None:
    """Which token stands at an index that may lie outside; None for zeros."""
    if 0 <= index < length:
        return index
    if border == "zero":
        return None
    if border == "circular":
        return index % length
    if border == "replicate":
        return 0 if index < 0 else length - 1
    mirrored = -index if index < 0 else 2 * (length - 1) - index  # the edge itself is not repeated
    return _source(mirrored, length, border)


def axial_shift(
    x: np.ndarray, along: str, shift_size: int, dilation: int, border: str
) -> np.ndarray:
    """Section 3.2: chunk i of the channels goes i - shift_size // 2 tokens on, times dilation."""
    _, h, w, c = x.shape
    chunk = math.ceil(c / shift_size)
    y = np.zeros(x.shape)
    for channel in range(c):
        offset = (channel // chunk - shift_size // 2) * dilation
        for i in range(h):
            for j in range(w):
                row = _source(i - offset, h, border) if along == "height" else i
                column = _source(j - offset, w, border) if along == "width" else j
                if row is not None and column is not None:
                    y[:, i, j, channel] = x[:, row, column, channel]
    return y


def _axial_mixer(x: np.ndarray, p: dict, v) -> np.ndarray:  # noqa: ANN001
    """Algorithm 1, inside of the first norm and the skip."""
    mixer = v.token_mixer()
    shift = (mixer.shift_size, mixer.dilation, mixer.border)
    x = _gelu(_group_norm(_linear(x, p["fc_in"]), p["norm_in"], v.norm_eps))
    left_right = _gelu(_linear(axial_shift(x, "width", *shift), p["fc_width"]))
    top_down = _gelu(_linear(axial_shift(x, "height", *shift), p["fc_height"]))
    return _linear(_group_norm(left_right + top_down, p["norm_out"], v.norm_eps), p["fc_out"])


def as_mlp(params: dict, images: np.ndarray, v) -> Outputs:  # noqa: ANN001
    """Figure 2: patches, stages of blocks with merges of 2x2 tokens between, norm, mean, head."""
    outputs: Outputs = {}
    x = _linear(_cut(_array(images), v.patch_size), params["embed"])
    outputs["embed"] = x
    x = outputs["embed_norm"] = _group_norm(x, params["embed_norm"], v.norm_eps)
    number = 0
    for stage, depth in enumerate(v.depths):
        if stage:
            x = _group_norm(_cut(x, 2), params[f"downsample_norm_{stage}"], v.norm_eps)
            x = outputs[f"downsample_{stage}"] = _linear(
                x, params[f"downsample_{stage}"], bias=False
            )
        for _ in range(depth):
            name, p = f"block_{number:02d}", params[f"block_{number:02d}"]
            y = _axial_mixer(_group_norm(x, p["mixer_norm"], v.norm_eps), p["mixer"], v)
            outputs[f"{name}/mixer"] = y
            x = x + y
            x = x + _channel_mlp(_group_norm(x, p["mlp_norm"], v.norm_eps), p["mlp"])
            outputs[name] = x
            number += 1
    x = outputs["final_norm"] = _group_norm(x, params["final_norm"], v.norm_eps)
    outputs["logits"] = _linear(x.mean((1, 2)), params["head"])
    return outputs


# Vision Permutator, arXiv 2106.12368 ------------------------------------------------------------


def _permute_mixer(x: np.ndarray, p: dict, v, segments: int) -> np.ndarray:  # noqa: ANN001
    """Section 3.2: layers over (height, s) and (width, s), the channels being (segment, s)."""
    b, h, w, c = x.shape
    s, mixer = c // segments, v.token_mixer()
    branches = {
        "height": np.zeros(x.shape),
        "width": np.zeros(x.shape),
        "channel": _linear(x, p["fc_channel"], bias=False) if "fc_channel" in p else None,
    }
    for n in range(segments):
        own = slice(n * s, (n + 1) * s)
        for j in range(w if "height" in mixer.branch_names else 0):
            column = _linear(x[:, :, j, own].reshape(b, h * s), p["fc_height"], bias=False)
            branches["height"][:, :, j, own] = column.reshape(b, h, s)
        for i in range(h if "width" in mixer.branch_names else 0):
            row = _linear(x[:, i, :, own].reshape(b, w * s), p["fc_width"], bias=False)
            branches["width"][:, i, :, own] = row.reshape(b, w, s)
    fused = _fuse(
        [branches[name] for name in mixer.branch_names],
        p.get("fusion", {}),
        mixer.fusion,
        bias=True,
    )
    return _linear(fused, p["fc_out"])


# S²-MLPv2, arXiv 2108.01072 ---------------------------------------------------------------------


def _moved(x: np.ndarray, axis: int, step: int, border: str) -> np.ndarray:
    """A quarter of the channels, moved by one token along an axis."""
    y = x.copy()  # Algorithm 1 of the first version: what nothing moves to keeps its value
    length = x.shape[axis]
    for index in range(length):
        source = index - step
        token = [slice(None)] * 4
        token[axis] = index
        if 0 <= source < length or border == "circular":
            y[tuple(token)] = np.take(x, source % length, axis)
        elif border == "zero":
            y[tuple(token)] = 0
    return y


def _quarters(x: np.ndarray, moves: list[tuple[int, int]], border: str) -> np.ndarray:
    parts = np.split(x, 4, axis=-1)
    moved = [_moved(part, *move, border) for part, move in zip(parts, moves, strict=True)]
    return np.concatenate(moved, axis=-1)


def _split_mixer(x: np.ndarray, p: dict, v) -> np.ndarray:  # noqa: ANN001
    """Section 3.2: expand, split, shift, fuse, a layer. The paper's first axis is the width."""
    width, height = 2, 1
    first = [(width, 1), (width, -1), (height, 1), (height, -1)]
    second = [(height, 1), (height, -1), (width, 1), (width, -1)]
    mixer = v.token_mixer()
    parts = np.split(_linear(x, p["fc_in"]), len(mixer.branch_names), axis=-1)
    made = {
        "shift1": lambda part: _quarters(part, first, mixer.border),
        "shift2": lambda part: _quarters(part, second, mixer.border),
        "identity": lambda part: part,
    }
    branches = [made[name](part) for name, part in zip(mixer.branch_names, parts, strict=True)]
    return _linear(_fuse(branches, p.get("fusion", {}), mixer.fusion, bias=False), p["fc_out"])


def permutator_or_v2(params: dict, images: np.ndarray, v) -> Outputs:  # noqa: ANN001
    """The skeleton that ViP and S²-MLPv2 share; ViP has a final norm."""
    outputs: Outputs = {}
    x = outputs["embed"] = _linear(_cut(_array(images), v.patch_size), params["embed"])
    number = 0
    for stage, depth in enumerate(v.depths):
        if stage:
            x = outputs[f"downsample_{stage}"] = _linear(_cut(x, 2), params[f"downsample_{stage}"])
        for _ in range(depth):
            name, p = f"block_{number:02d}", params[f"block_{number:02d}"]
            y = _layer_norm(x, p["mixer_norm"], v.norm_eps)
            if v.mixer == "permute":
                y = _permute_mixer(y, p["mixer"], v, segments=y.shape[1])
            else:
                y = _split_mixer(y, p["mixer"], v)
            outputs[f"{name}/mixer"] = y
            x = x + y
            x = x + _channel_mlp(_layer_norm(x, p["mlp_norm"], v.norm_eps), p["mlp"])
            outputs[name] = x
            number += 1
    if "final_norm" in params:
        x = outputs["final_norm"] = _layer_norm(x, params["final_norm"], v.norm_eps)
    outputs["logits"] = _linear(x.mean((1, 2)), params["head"])
    return outputs
