"""Training: methods, the loop they share, and the runs that `fastlif train` makes.

A method is also usable without the loop:

    method = fastlif.train.Bptt(net, torch.optim.AdamW(net.parameters()), loss=fastlif.losses.tet_loss)
    for x, y in batches:                # x [T, B, ...], y [B]
        outcome = method.step(x, y)     # loss and scores of this batch; the network is updated
"""

from .bptt import Bptt
from .loop import Epoch, evaluate, fit
from .method import Method, NotFiniteError, Outcome

__all__ = ["Bptt", "Epoch", "Method", "NotFiniteError", "Outcome", "evaluate", "fit"]
