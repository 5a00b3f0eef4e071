"""Base policies at paper scale: agents that stable-baselines3 saved (A2C or PPO with an MLP and discrete actions)."""

import zipfile
from pathlib import Path

import numpy as np

from replications.rl.counterpol.method import Array, Widths


def load(file: Path) -> tuple[Array, Widths]:
    """The actor of a saved agent as a policy (P,) in float32, and its widths. Nothing of the zip is unpickled but tensors.

    That its hidden units are tanh, the default there, is taken for granted.
    Raises ValueError for an agent without an actor of its own (one that shares layers with the critic, or a convolutional one).
    """
    import torch

    with zipfile.ZipFile(file) as archive, archive.open("policy.pth") as opened:
        state = torch.load(opened, map_location="cpu", weights_only=True)
    names = sorted({k.rpartition(".")[0] for k in state if "policy_net." in k}, key=lambda k: int(k.rpartition(".")[2]))
    if not names or "action_net.weight" not in state:
        raise ValueError(f"{file} has no actor of the kind mlp_extractor.policy_net, action_net; it has {', '.join(state)}")
    weights = [state[f"{name}.weight"].numpy() for name in (*names, "action_net")]  # (b, a) each
    biases = [state[f"{name}.bias"].numpy() for name in (*names, "action_net")]
    pieces = [part.ravel() for w, b in zip(weights, biases, strict=True) for part in (w.T, b)]
    return np.concatenate(pieces).astype(np.float32), (weights[0].shape[1], *(len(w) for w in weights))
