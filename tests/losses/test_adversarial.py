"""The losses of GANs against their closed forms; penalties of a gradient against those that are known."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from farabio_like.errors import ConfigError, DataError
from farabio_like.losses import AdversarialLoss, gradient_penalty, r1_penalty

FAKE, REAL = torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
KINDS = ("standard", "hinge", "wasserstein", "least_squares", "relativistic")


@pytest.mark.parametrize(
    ("kind", "generator", "discriminator"),
    [
        ("standard", 0.893669, 0.431882),
        ("relativistic", 1.936072, 0.186072),
        ("hinge", 0.25, 0.0 + 0.75),
        ("wasserstein", 0.25, -1.75),
        ("least_squares", (0.25 + 4) / 4, ((0 + 1) / 2 + (0.25 + 1) / 2) / 2),
    ],
)
def test_reference_values(kind, generator, discriminator):
    loss = AdversarialLoss(kind)
    assert loss.generator(FAKE, REAL).item() == pytest.approx(generator, abs=1e-6)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(discriminator, abs=1e-6)


def closed_form(kind, real, fake):
    """Return the losses of discriminator and generator from probabilities and differences, written out."""
    if kind == "standard":
        return -(logsigmoid(real).mean() + logsigmoid(-fake).mean()) / 2, -logsigmoid(fake).mean()
    if kind == "hinge":
        return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean(), -fake.mean()
    if kind == "wasserstein":
        return fake.mean() - real.mean(), -fake.mean()
    if kind == "least_squares":
        return 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean(), 0.5 * ((fake - 1) ** 2).mean()
    real, fake = real - fake.mean(), fake - real.mean()
    of_discriminator = -(logsigmoid(real).mean() + logsigmoid(-fake).mean()) / 2
    return of_discriminator, -(logsigmoid(-real).mean() + logsigmoid(fake).mean()) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_each_loss_is_its_closed_form_and_its_gradient_that_of_finite_differences(kind):
    torch.manual_seed(0)
    loss = AdversarialLoss(kind)
    real, fake = (torch.randn(6, 1, 3, dtype=torch.float64, requires_grad=True) * 2 for _ in range(2))
    of_discriminator, of_generator = closed_form(kind, real, fake)
    assert loss.discriminator(real, fake).item() == pytest.approx(of_discriminator.item(), rel=1e-12)
    assert loss.generator(fake, real).item() == pytest.approx(of_generator.item(), rel=1e-12)
    real, fake = (value.detach().requires_grad_() for value in (real, fake))
    assert gradcheck(loss.discriminator, (real, fake)) and gradcheck(loss.generator, (fake, real))


@pytest.mark.parametrize("kind", KINDS)
def test_large_logits_stay_finite(kind):
    loss = AdversarialLoss(kind)
    for sign in (1, -1):
        real, fake = (torch.full((4,), 1e4 * s * sign, requires_grad=True) for s in (1, -1))
        total = loss.discriminator(real, fake) + loss.generator(fake, real)
        total.backward()
        assert total.isfinite() and real.grad.isfinite().all() and fake.grad.isfinite().all()


def test_smoothing_is_the_label_of_real_samples():
    label = torch.full_like(REAL, 0.9)
    halves = binary_cross_entropy_with_logits(REAL, label), binary_cross_entropy_with_logits(FAKE, 0 * FAKE)
    loss = AdversarialLoss("standard", smoothing=0.1)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(sum(halves).item() / 2, rel=1e-12)
    assert loss.generator(FAKE).item() == pytest.approx(AdversarialLoss().generator(FAKE).item())
    squares = AdversarialLoss("least_squares", smoothing=0.1).discriminator(REAL, FAKE)
    assert squares.item() == pytest.approx((((REAL - 0.9) ** 2).mean() + (FAKE**2).mean()).item() / 2, rel=1e-12)


def test_the_least_loss_is_that_of_a_perfect_discriminator():
    for smoothing in (0.0, 0.2):
        best = torch.tensor([math.log((1 - smoothing) / smoothing) if smoothing else 50.0], dtype=torch.float64)
        loss = AdversarialLoss("standard", smoothing)
        assert loss.discriminator(best, torch.tensor([-50.0])).item() == pytest.approx(loss.least, abs=1e-9)
    assert AdversarialLoss("wasserstein").least is None
    assert AdversarialLoss("hinge").discriminator(torch.tensor([2.0]), torch.tensor([-2.0])) == 0
    assert AdversarialLoss("hinge").least == AdversarialLoss("least_squares", 0.1).least == 0


@pytest.mark.parametrize("kind", KINDS)
def test_of_several_outputs_it_is_the_mean(kind):
    torch.manual_seed(0)
    loss = AdversarialLoss(kind)
    reals, fakes = ([torch.randn(4, 1), torch.randn(4, 1, 2, 2)] for _ in range(2))
    pairs = list(zip(reals, fakes, strict=True))
    mean = sum(loss.discriminator(r, f) for r, f in pairs) / 2
    assert loss.discriminator(reals, tuple(fakes)).item() == pytest.approx(mean.item(), rel=1e-6)
    mean = sum(loss.generator(f, r) for r, f in pairs) / 2
    assert loss.generator(fakes, reals).item() == pytest.approx(mean.item(), rel=1e-6)


def test_bad_arguments_and_logits():
    with pytest.raises(ConfigError, match="kind='higne'.*Did you mean 'hinge'"):
        AdversarialLoss("higne")
    with pytest.raises(ConfigError, match="the loss 'hinge' has no labels"):
        AdversarialLoss("hinge", smoothing=0.1)
    for smoothing in (1.0, -0.1, True, "0.1", float("nan")):
        with pytest.raises(ConfigError, match="expected a number from 0 to below 1"):
            AdversarialLoss(smoothing=smoothing)
    loss = AdversarialLoss("relativistic")
    with pytest.raises(DataError, match=r"generator\(fake, real\)"):
        loss.generator(FAKE)
    with pytest.raises(DataError, match="2 outputs for real samples and 1"):
        loss.discriminator([REAL, REAL], FAKE)
    with pytest.raises(DataError, match=r"\['dict'\]; expected a tensor"):
        loss.discriminator({"logits": REAL}, FAKE)
    with pytest.raises(DataError, match="expected a tensor of floating point"):
        loss.discriminator(torch.ones(2, dtype=torch.long), FAKE)
    with pytest.raises(DataError, match="expected a tensor of floating point"):
        loss.discriminator(torch.ones(0), FAKE)


# Penalties


def test_penalties_of_a_linear_critic():
    weight = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64, requires_grad=True)
    real, fake = torch.rand(5, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    assert gradient_penalty(lambda x: x @ weight, real, fake).item() == pytest.approx((5 - 1) ** 2)
    assert r1_penalty(lambda x: x @ weight, real).item() == pytest.approx(25 / 2)
    assert r1_penalty(lambda x: [x @ weight, 2 * (x @ weight)], real).item() == pytest.approx(225 / 2)
    assert not real.requires_grad and not fake.requires_grad
    r1_penalty(lambda x: x @ weight, real).backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_penalties_of_a_quadratic_critic_are_means_over_samples_at_points_between():
    real, fake = torch.full((64, 2, 1), 2.0), torch.zeros(64, 2, 1)
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2)) / 2  # whose gradient is x

    torch.manual_seed(0)
    penalty = gradient_penalty(critic, real, fake)
    assert penalty.item() == pytest.approx((seen[0].flatten(1).norm(dim=1) - 1).square().mean().item(), rel=1e-6)
    assert torch.equal(seen[0][:, 0], seen[0][:, 1])  # a point is on the line between two samples
    assert seen[0].min() < 0.2 and seen[0].max() > 1.8 and len(seen[0].unique()) == 64
    assert r1_penalty(critic, real).item() == pytest.approx(8 / 2)


def test_gradients_of_penalties_are_those_of_finite_differences():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    names = [name for name, _ in critic.named_parameters()]
    real, fake = torch.randn(3, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)

    def penalties(*weights):
        torch.manual_seed(1)

        def judged(x):
            return torch.func.functional_call(critic, dict(zip(names, weights, strict=True)), x)

        return gradient_penalty(judged, real, fake), r1_penalty(judged, real)

    assert gradcheck(penalties, tuple(critic.parameters()))


def test_a_critic_without_any_slope_has_finite_gradients():
    critic = nn.Linear(3, 1)
    nn.init.zeros_(critic.weight)
    (gradient_penalty(critic, torch.rand(4, 3), torch.rand(4, 3)) + r1_penalty(critic, torch.rand(4, 3))).backward()
    assert critic.weight.grad.isfinite().all()


def test_the_gradient_penalty_wants_as_many_generated_samples():
    with pytest.raises(DataError, match=r"\(4, 3\) and generated ones of \(5, 3\)"):
        gradient_penalty(nn.Linear(3, 1), torch.rand(4, 3), torch.rand(5, 3))
