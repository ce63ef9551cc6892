"""Put low-rank adapters onto layers of a network: trained alone, switched off, merged into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Adapters:
    """Low-rank adapters: a layer's output W x + b becomes W x + b + B (A x), rank(B A) = r.

    A convolution's A has the layer's kernel, stride and padding, and B is pointwise. `Run.train` takes an object of this
    class in a model's place: its parameters are A and B alone.
    """

    def __init__(
        self,
        net: nn.Module,
        chosen: Callable[[str], bool],
        rank: int,
        rng: torch.Generator,
        std: float | None = None,
    ) -> None:
        """Put adapters onto the Linear and Conv2d layers of `net` that `chosen` says yes to by name.

        A starts uniform as a layer of its size, or normal with the standard deviation `std`; B starts at 0, so that
        nothing is changed at first.
        """
        self.net, self.is_on = net, True
        self.outputs: list[Tensor] | None = None
        """Outputs B (A x) of every layer in the order of the calls, while `record` is used."""
        self.layers: dict[str, nn.Module] = {
            name: module
            for name, module in net.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and chosen(name)
        }
        self.down: dict[str, nn.Parameter] = {}
        self.up: dict[str, nn.Parameter] = {}
        self._handles = []
        for name, layer in self.layers.items():
            weight: Any = layer.weight
            size = (rank, *weight.shape[1:])
            if std is None:
                down = (2 * torch.rand(size, generator=rng) - 1) * weight[0].numel() ** -0.5
            else:
                down = torch.randn(size, generator=rng) * std
            self.down[name] = nn.Parameter(down.to(weight))
            self.up[name] = nn.Parameter(torch.zeros(weight.shape[0], rank).to(weight))
            self._handles += [layer.register_forward_hook(self._add(name))]

    def _add(self, name: str) -> Callable[..., Tensor]:
        """Return the hook of a layer, which adds the adapter's output."""

        def add(layer: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            if not self.is_on:
                return out
            down, up = self.down[name], self.up[name]
            if isinstance(layer, nn.Conv2d):
                inner = F.conv2d(args[0], down, None, layer.stride, layer.padding)
                added = F.conv2d(inner, up[:, :, None, None])
            else:
                added = F.linear(F.linear(args[0], down), up)
            if self.outputs is not None:
                self.outputs.append(added)
            return out + added

        return add

    def parameters(self, scope: str = "full") -> dict[str, nn.Parameter]:
        """Return A and B by name, whatever the scope."""
        parts = (("down", self.down), ("up", self.up))
        return {f"{name}.{part}": p for part, group in parts for name, p in group.items()}

    def averages(self) -> None:
        """Return None: there are no averaged weights."""

    @contextmanager
    def off(self) -> Iterator[None]:
        """Switch the adapters off within the block."""
        was_on, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = was_on

    @contextmanager
    def record(self) -> Iterator[list[Tensor]]:
        """Record what the adapters add within the block: a tensor for every call of a layer."""
        self.outputs = []
        try:
            yield self.outputs
        finally:
            self.outputs = None

    def updates(self) -> dict[str, Tensor]:
        """Compute B A of every layer by name, in the shape of its weight."""
        return {
            name: (self.up[name] @ self.down[name].flatten(1)).view_as(self.get_weight(name))
            for name in self.layers
        }

    def get_weight(self, name: str) -> Tensor:
        """Return the weight of the layer `name`."""
        weight: Any = self.layers[name].weight
        return weight

    @torch.no_grad()
    def merge(self) -> None:
        """Add B A to the layers' weights, and take the adapters off."""
        for name, update in self.updates().items():
            self.get_weight(name).add_(update)
        for handle in self._handles:
            handle.remove()


class Gate:
    """A switch on some layers' weights: W* + γ(c)² Δ instead of W* + Δ, γ in [0, 1] for each image by its text.

    γ is the larger of the share of the concept's tokens that the text has, and of the largest cosine of its states with
    the concept's, less that of the empty prompt, rescaled to reach 1. The second sees what is like the concept in other
    tokens.
    """

    def __init__(self, concept: Tensor, null: Tensor, shares: TokenShares | None = None) -> None:
        """Take what γ is computed from.

        Args:
            concept: text-encoder states (k, width) that stand for the concept.
            null: those of the empty prompt, (length, width); a text no more like the concept than it has a cosine's γ of 0.
            shares: knows which of the concept's tokens a text has; None takes the cosine alone.
        """
        self.concept, self.shares = F.normalize(concept, dim=1), shares
        self.least = float(self._compare(null[None]))
        self.value = torch.ones(1)
        """γ of the images that are on their way through the network, (N,)."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy gets: γ without the gradients of a pass that is over."""
        return {**self.__dict__, "value": self.value.detach()}

    def _compare(self, states: Tensor) -> Tensor:
        """Compute the largest cosine between a text's states and the concept's, (N,)."""
        return (F.normalize(states.float(), dim=2) @ self.concept.T).amax((1, 2))

    def strength(self, states: Tensor) -> Tensor:
        """Compute γ of texts by their states (N, length, width): (N,) in [0, 1].

        Gradients flow through the cosine, where it is the larger.
        """
        likeness = ((self._compare(states) - self.least) / (1 - self.least)).clamp(0, 1)
        return likeness if self.shares is None else likeness.maximum(self.shares.read(states))

    def read(self, net: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Read the texts of a forward pass, as its hook."""
        self.value = self.strength(kwargs["encoder_hidden_states"])

    def put_on(self, net: nn.Module, stars: Mapping[str, Tensor]) -> None:
        """Set the weights of `stars` to θ*, and add what they differed by, times γ², in every forward pass.

        Args:
            net: a U-Net.
            stars: weights of θ* by the names of `net`'s parameters.
        """
        net.register_forward_pre_hook(self.read, with_kwargs=True)
        for name, module in net.named_modules():
            weight: Any = getattr(module, "weight", None)
            star = stars.get(f"{name}.weight")
            if not isinstance(module, nn.Linear | nn.Conv2d) or star is None:
                continue
            difference = weight.detach() - star.to(weight)
            if not bool(difference.any()):
                continue
            with torch.no_grad():
                weight.copy_(star)
            module.register_forward_hook(GatedDifference(self, difference))


class GatedDifference:
    """The hook of one gated layer; an object, so that a copied network has a copied gate."""

    def __init__(self, gate: Gate, difference: Tensor) -> None:
        """Take the gate, and Δ in the shape of the weight."""
        self.gate, self.difference = gate, difference

    def __call__(self, layer: Any, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """Add γ² Δ x to the layer's output."""
        if isinstance(layer, nn.Conv2d):
            added = F.conv2d(args[0], self.difference, None, layer.stride, layer.padding)
        else:
            added = F.linear(args[0], self.difference)
        strength = self.gate.value.square()
        return out + added * strength.view(-1, *[1] * (added.ndim - 1)).to(added)


class TokenShares:
    """The share of a concept's tokens that each text has, from 0 to 1, told by the text's states.

    A U-Net is given states, which no longer say what the tokens were. So the text encoder's hooks note the share of each
    text with its states, and whoever has the states can ask for it.

    A token counts where its own vector enters the encoder, as it is when the hooks are put on. So a vector that is put in
    a token's place, as a soft prompt or a fitted one, is not that token, unless it is the same to the last bit; the words
    around it count as ever.
    """

    @torch.no_grad()
    def __init__(self, text: Any, phrases: Sequence[Sequence[int]]) -> None:
        """Put hooks onto a text encoder; texts that it encoded before have no share.

        Args:
            text: a CLIPTextModel.
            phrases: token numbers of each phrase for the concept. The share is that of the phrase of which a text has
                most. Where a token stands, and how often, makes no difference.
        """
        table = text.get_input_embeddings()
        embeddings: nn.Module = next(m for m in text.modules() if table in [*m.children()])
        tokens = sorted({token for phrase in phrases for token in phrase})
        rows = torch.tensor(tokens, device=table.weight.device)[:, None]
        self.vectors: Tensor = embeddings(
            input_ids=rows.expand(-1, text.config.max_position_embeddings)
        )
        """What enters the encoder at each place if the token stands there, (tokens, length, width)."""
        members = torch.tensor([[float(t in phrase) for t in tokens] for phrase in phrases])
        self.parts = members / members.sum(1, keepdim=True)
        """Part of each phrase that a token is, (phrases, tokens)."""
        self.entering: list[float] = []
        """Shares of the texts that are being encoded."""
        self.known: dict[bytes, float] = {}
        """Shares above 0 by `sign_texts` of the states."""
        embeddings.register_forward_hook(self._find_tokens)
        text.register_forward_hook(self._note)

    def _find_tokens(self, embeddings: nn.Module, args: Any, out: Tensor) -> None:
        """Find the tokens in what enters the encoder, (N, length, width)."""
        vectors = self.vectors[:, : out.shape[1]].to(out)
        found = torch.stack([(out == vector).all(2).any(1) for vector in vectors], 1)
        self.entering = (found.cpu().float() @ self.parts.T).amax(1).tolist()

    def _note(self, text: nn.Module, args: Any, out: Any) -> None:
        """Note the shares of the texts that were encoded."""
        pairs = zip(sign_texts(out[0]), self.entering, strict=True)
        self.known |= {signature: share for signature, share in pairs if share}

    def read(self, states: Tensor) -> Tensor:
        """Return the shares of texts by their states (N, length, width): (N,); 0 for states that the encoder never gave."""
        shares = [self.known.get(signature, 0.0) for signature in sign_texts(states)]
        return torch.tensor(shares, device=states.device)


def sign_texts(states: Tensor) -> list[bytes]:
    """Give each text a signature by its states (N, length, width): bits of the last one, which has read all the others."""
    rows = states.detach()[:, -1, :8].contiguous().cpu().view(torch.uint8).numpy()
    return [row.tobytes() for row in rows]
