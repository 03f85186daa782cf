"""Whether weights are still those that something was made of.

Most changes count up a tensor's version or put another tensor in its place. A fused optimiser and
an edit of `.data` do neither, so some values of each tensor are compared too.
"""

from __future__ import annotations

from torch import Tensor, equal, nn

_SOME = 4  # of each dimension: 256 values of a kernel


class Origin:
    """The weights of a network at one moment; asking after them takes a fortieth of a small map."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = list(network.modules())
        self._tensors = _tensors(self._modules)
        self._places = [_place(each) for each in self._tensors]
        self._seen = [_some(each) for each in self._tensors]
        self._values = [each.clone() for each in self._seen]

    def is_still(self, network: nn.Module) -> bool:
        """Whether the network has the very same layers, and their weights have not changed.

        An edit that counts up no version and touches none of the values looked at is not seen.
        """
        modules = list(network.modules())
        return (
            modules == self._modules
            and list(map(id, _tensors(modules))) == list(map(id, self._tensors))
            and [_place(each) for each in self._tensors] == self._places
            and all(map(equal, self._seen, self._values))
        )

    def has_values_of(self, network: nn.Module) -> bool:
        """Whether the values looked at are the network's, in whatever place and precision."""
        now = [_some(each) for each in _tensors(list(network.modules()))]
        return len(now) == len(self._values) and all(
            equal(a.cpu().double(), b.cpu().double())
            for a, b in zip(now, self._values, strict=True)
        )


def _tensors(modules: list[nn.Module]) -> list[Tensor]:
    # Twice as fast as parameters() and buffers().
    return [
        tensor
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ]


def _place(tensor: Tensor) -> tuple[int, int]:
    """Return where a tensor lies and which version it is; made in inference mode, it has none."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _some(tensor: Tensor) -> Tensor:
    """Return a view of some values, which shows what becomes of them."""
    return tensor.detach()[(slice(_SOME),) * tensor.dim()]
