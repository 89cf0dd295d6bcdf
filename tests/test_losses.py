"""Losses over time: TET's equations, its lemma, and its gradients (equations 8 and 10)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fastlif.losses import sdt_loss, tet_loss


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 5), st.integers(1, 11), st.floats(0, 100), st.integers(0, 2**31), st.booleans()
)
def test_tet_is_never_below_sdt(steps, batch, classes, scale, seed, smooth):
    """Lemma 4.1, within the rounding of float64."""
    generator = torch.Generator().manual_seed(seed)
    outputs = scale * torch.randn(steps, batch, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=generator)
    smoothing = 0.1 if smooth else 0.0
    sdt = sdt_loss(outputs, labels, smoothing)
    tet = tet_loss(outputs, labels, label_smoothing=smoothing)
    assert tet >= sdt - 1e-12 * (1 + sdt)
    if steps > 1 and classes > 1 and scale > 1 and batch == 1:
        assert tet > sdt  # equal only where all moments agree


def case():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    return outputs, torch.tensor([0, 4, 2])


def test_values_and_gradients():
    outputs, labels = case()
    one_hot = functional.one_hot(labels, 5).double()
    steps, batch, _ = outputs.shape
    by_hand = -(outputs.log_softmax(-1) * one_hot).sum(-1).mean()
    torch.testing.assert_close(tet_loss(outputs, labels), by_hand)
    (gradient,) = torch.autograd.grad(tet_loss(outputs, labels), outputs)
    torch.testing.assert_close(gradient, (outputs.softmax(-1) - one_hot) / (steps * batch))
    (gradient,) = torch.autograd.grad(sdt_loss(outputs, labels), outputs)
    error = (outputs.mean(0).softmax(-1) - one_hot) / (steps * batch)
    torch.testing.assert_close(gradient, error.expand_as(outputs))


def test_the_squared_term():
    outputs, labels = case()
    square = sum((outputs[t, b, c] - 1.5) ** 2 for t in range(4) for b in range(3) for c in range(5)) / 60
    torch.testing.assert_close(tet_loss(outputs, labels, lam=1.0, phi=1.5), square)
    mixed = 0.75 * tet_loss(outputs, labels) + 0.25 * square
    torch.testing.assert_close(tet_loss(outputs, labels, lam=0.25, phi=1.5), mixed)


@pytest.mark.parametrize("loss", (sdt_loss, tet_loss))
def test_one_step_is_cross_entropy(loss):
    outputs, labels = case()
    torch.testing.assert_close(loss(outputs[:1], labels), functional.cross_entropy(outputs[0], labels))


@pytest.mark.parametrize("loss", (sdt_loss, tet_loss))
def test_bad_input(loss):
    outputs, labels = case()
    for wrong in (outputs[0], outputs[:0]):
        with pytest.raises(ValueError, match=r"outputs must be \[T, B, classes\]"):
            loss(wrong, labels)
    with pytest.raises(ValueError, match="lam must be"):
        tet_loss(outputs, labels, lam=1.5)
