"""SimSiam (Chen and He, arXiv:2011.10566): predict one view from the other; a stop-gradient alone prevents collapse."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sslzoo.errors import InputError
from training.heads import mlp
from training.methods.base import Loss, Method, in_fp32


@in_fp32
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) of equation 1, the mean over the batch."""
    return -F.cosine_similarity(p, z, dim=1).mean()


@in_fp32
def cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) of section 4.5: the softmax is along the channels, as if they were classes."""
    return -(z.softmax(1) * p.log_softmax(1)).sum(1).mean()


# Table 3: BN on the projector's hidden layers, its output, the predictor's hidden layer, its output
NORMS: dict[str, tuple[bool, bool | str, bool, bool]] = {
    "none": (False, False, False, False),
    "hidden": (True, False, True, False),
    "default": (True, "plain", True, False),
    "all": (True, "plain", True, True),
}


class SimSiam(Method):
    """`projector_layers` is 3 for ImageNet and 2 for CIFAR (appendix D); the predictor's rate stays constant (table 1c).

    The ablations: `stop_gradient` (section 4.1), `predictor` (4.2), `norm` (4.4), `similarity` "cosine" or
    "cross-entropy" (4.5), `symmetric` (4.6).
    """

    paper = "arXiv:2011.10566"

    def __init__(
        self,
        backbone: nn.Module,
        dim: int,
        *,
        projection: int = 2048,
        prediction: int = 512,
        projector_layers: int = 3,
        stop_gradient: bool = True,
        predictor: bool = True,
        norm: str = "default",
        similarity: str = "cosine",
        symmetric: bool = True,
    ) -> None:
        super().__init__(backbone, dim)
        if norm not in NORMS:
            raise InputError(f"method_options.norm is {norm!r}; use {', '.join(NORMS)}")
        if similarity not in ("cosine", "cross-entropy"):
            raise InputError(f"method_options.similarity is {similarity!r}; use cosine or cross-entropy")
        hidden, out, predictor_hidden, predictor_out = NORMS[norm]
        self.projector = mlp([dim] + [projection] * projector_layers, hidden_norm=hidden, out_norm=out, bias=True)
        self.predictor: nn.Module = nn.Identity()
        if predictor:
            sizes = [projection, prediction, projection]
            self.predictor = mlp(sizes, hidden_norm=predictor_hidden, out_norm=predictor_out, bias=True)
        self.distance = negative_cosine if similarity == "cosine" else cross_entropy
        self.stop_gradient, self.symmetric = stop_gradient, symmetric

    def loss(self, views: Sequence[Tensor], progress: float) -> Loss:
        z1, z2 = (self.projector(self.backbone(view)) for view in views)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        outputs = {"z": z1.detach()}
        if self.stop_gradient:
            z1, z2 = z1.detach(), z2.detach()
        loss = self.distance(p1, z2)
        return (loss + self.distance(p2, z1)) / 2 if self.symmetric else loss, outputs

    def constant_lr(self) -> Sequence[nn.Module]:
        return (self.predictor,)
