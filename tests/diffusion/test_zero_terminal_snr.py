"""Zero terminal SNR: the schedules, predictions, steps and guidance against closed forms and against diffusers."""

import copy

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.guiders.guider_utils import rescale_noise_cfg
from PIL import Image
from scipy import linalg
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from replications.diffusion.zero_terminal_snr import method, stable_diffusion
from replications.diffusion.zero_terminal_snr.weights import train
from shared.data import DataError, fashion_mnist, photographs

ORIGINAL = method.stable_diffusion_schedule()
RESCALED = method.rescale_zero_terminal_snr(ORIGINAL)
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "schedule, leak, rtol",
    [
        (method.stable_diffusion_schedule, 0.068265, 1e-5),
        (method.linear_schedule, 0.006353, 1e-4),
        (method.cosine_schedule, 4.928e-5, 1e-3),
    ],
)
def test_leak_of_the_schedules_is_the_papers(schedule, leak, rtol):
    alpha_bar = schedule()
    assert alpha_bar.shape == (1000,)
    np.testing.assert_allclose(np.sqrt(alpha_bar[-1]), leak, rtol=rtol)
    np.testing.assert_allclose(method.snr(alpha_bar)[-1], leak**2 / (1 - leak**2), rtol=3 * rtol)


def test_rescaled_schedule_ends_at_zero_and_keeps_its_first_step():
    assert RESCALED[-1] == 0
    np.testing.assert_allclose(RESCALED[0], ORIGINAL[0], rtol=1e-14)
    assert (np.diff(RESCALED) < 0).all()
    # an affine map of the root: every ratio of differences is kept
    root, new = np.sqrt(ORIGINAL), np.sqrt(RESCALED)
    np.testing.assert_allclose(np.diff(new) / np.diff(root), (new[0] - new[-1]) / (root[0] - root[-1]), rtol=1e-9)


def test_betas_invert_the_product():
    betas = method.betas_from_alpha_bar(RESCALED)
    assert betas[-1] == 1
    np.testing.assert_allclose(method.alpha_bar_from_betas(betas), RESCALED, atol=1e-14)


@pytest.mark.parametrize("bad", [np.array([0.5]), np.array([0.5, 0.6]), np.array([0.9, np.nan]), np.ones((2, 2))])
def test_rescale_refuses_what_is_no_schedule(bad):
    with pytest.raises(ValueError, match="alpha_bar"):
        method.rescale_zero_terminal_snr(bad)


@pytest.mark.parametrize("bad", [np.array([0.1, 1.5]), np.array([0.1, np.nan]), np.array([0.1])])
def test_betas_outside_the_unit_interval_are_refused(bad):
    with pytest.raises(ValueError, match="betas"):
        method.alpha_bar_from_betas(bad)


def test_steps_of_table_2():
    assert list(method.sample_steps(1000, 10, "leading")) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert list(method.sample_steps(1000, 10, "linspace")) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert list(method.sample_steps(1000, 10, "trailing")) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    for spacing in ("leading", "linspace", "trailing"):
        assert list(method.sample_steps(1000, 1000, spacing)) == list(range(999, -1, -1))


@pytest.mark.parametrize("n", [5, 10, 25, 30, 50])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_steps_are_those_of_diffusers(n, spacing):
    peer = DDIMScheduler(timestep_spacing=spacing, steps_offset=0, **SD)
    peer.set_timesteps(n)
    assert list(method.sample_steps(1000, n, spacing)) == peer.timesteps.tolist()


def test_bad_steps_are_refused():
    with pytest.raises(ValueError, match="n_sample"):
        method.sample_steps(1000, 0, "leading")
    with pytest.raises(ValueError, match="spacing"):
        method.sample_steps(1000, 10, "even")


@pytest.mark.parametrize("rescale, alpha_bar", [(False, ORIGINAL), (True, RESCALED)])
def test_schedule_is_that_of_diffusers(rescale, alpha_bar):
    peer = DDIMScheduler(rescale_betas_zero_snr=rescale, **SD)
    np.testing.assert_allclose(alpha_bar, peer.alphas_cumprod.numpy(), atol=1e-6)


@pytest.mark.parametrize("a", [0.0, 0.3, 0.999])
def test_v_and_eps_recover_image_and_noise(a):
    x0, eps = images(2, 1, 4, 4), images(2, 1, 4, 4, seed=1)
    x = method.add_noise(x0, eps, a)
    torch.testing.assert_close(x, a**0.5 * x0 + (1 - a) ** 0.5 * eps)
    for got, wanted in zip(method.split(method.v_target(x0, eps, a), x, a, "v"), (x0, eps), strict=True):
        torch.testing.assert_close(got, wanted)
    if a:
        for got, wanted in zip(method.split(eps, x, a, "eps"), (x0, eps), strict=True):
            torch.testing.assert_close(got, wanted)


def test_at_zero_snr_v_is_minus_the_image_and_eps_is_refused():
    x0, eps = images(2, 1, 4, 4), images(2, 1, 4, 4, seed=1)
    torch.testing.assert_close(method.v_target(x0, eps, 0.0), -x0)
    with pytest.raises(ValueError, match="prediction must be v"):
        method.split(eps, eps, 0.0, "eps")
    with pytest.raises(ValueError, match="prediction"):
        method.split(eps, eps, 0.5, "x0")
    with pytest.raises(ValueError, match="eps"):
        method.add_noise(x0, eps[:1], 0.5)


@pytest.mark.parametrize("prediction, name, rescale", [("v", "v_prediction", True), ("eps", "epsilon", False)])
def test_sampling_is_that_of_diffusers(prediction, name, rescale):
    spacing = "trailing" if rescale else "leading"
    peer = DDIMScheduler(
        prediction_type=name, rescale_betas_zero_snr=rescale, timestep_spacing=spacing, set_alpha_to_one=True, **SD
    )
    peer.set_timesteps(10)

    def model(x, t):
        return torch.tanh(x) * 0.5 + t / 1000

    start = images(3, 2, 4, 4)
    x = start
    for t in peer.timesteps:
        x = peer.step(model(x, int(t)), t, x, eta=0.0).prev_sample
    alpha_bar = RESCALED if rescale else ORIGINAL
    ours = method.sample(model, start, method.sample_steps(1000, 10, spacing), alpha_bar, prediction)
    torch.testing.assert_close(ours, x, atol=3e-4, rtol=0)  # the peer's alpha_bar is float32


def test_sample_refuses_bad_steps_and_starts():
    with pytest.raises(ValueError, match="steps"):
        method.sample(lambda x, t: x, images(1, 1, 2, 2), np.array([0, 1]), RESCALED, "v")
    with pytest.raises(ValueError, match="steps"):
        method.sample(lambda x, t: x, images(1, 1, 2, 2), np.array([1000, 0]), RESCALED, "v")
    with pytest.raises(ValueError, match="start"):
        method.sample(lambda x, t: x, images(1, 1, 2, 2) * torch.nan, np.array([999, 0]), RESCALED, "v")


def test_guidance_rescale_is_that_of_diffusers():
    u, c = images(3, 4, 5, 5), images(3, 4, 5, 5, seed=1)
    wanted = rescale_noise_cfg(u + 7.5 * (c - u), c, guidance_rescale=0.7)
    torch.testing.assert_close(method.guide(u, c, 7.5, 0.7), wanted)


def test_guidance_corner_cases():
    u, c = images(3, 4, 5, 5), images(3, 4, 5, 5, seed=1)
    torch.testing.assert_close(method.guide(u, c, 1.0, 0.7), c)
    torch.testing.assert_close(method.guide(u, c, 7.5, 0.0), u + 7.5 * (c - u))
    torch.testing.assert_close(method.guide(u, c, 7.5, 1.0).std((1, 2, 3)), c.std((1, 2, 3)))
    with pytest.raises(ValueError, match="phi"):
        method.guide(u, c, 7.5, 1.5)


@pytest.mark.parametrize("alpha_bar, spacing", [(ORIGINAL, "leading"), (RESCALED, "trailing")])
def test_exact_gain_is_what_sampling_with_the_ideal_denoiser_gives(alpha_bar, spacing):
    mu, variance, steps = 0.7, np.array([0.0, 0.04, 2.0]), method.sample_steps(1000, 20, spacing)
    lam = torch.tensor(variance)[None, :, None, None]

    def ideal_v(x, t):
        a = float(alpha_bar[t])
        x0 = mu + a**0.5 * lam / (a * lam + 1 - a) * (x - a**0.5 * mu)
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        return method.v_target(x0, eps, a)

    z = images(5, 3, 2, 2)
    made = method.sample(ideal_v, z, steps, alpha_bar, "v")
    gain = torch.tensor(method.gaussian_gain(variance, alpha_bar, steps))[None, :, None, None]
    torch.testing.assert_close(made, mu + gain * (z - alpha_bar[steps[0]] ** 0.5 * mu), atol=1e-10, rtol=0)


def test_exact_gain_in_the_limit_of_many_steps():
    # the probability flow maps N(0, a_T lam + 1 - a_T) to N(0, lam) by one factor
    steps, lam, a = method.sample_steps(1000, 1000, "leading"), np.array([0.09, 1.0]), ORIGINAL[-1]
    np.testing.assert_allclose(method.gaussian_gain(lam, ORIGINAL, steps), np.sqrt(lam / (a * lam + 1 - a)), rtol=0.01)


@pytest.mark.parametrize("rows", [6, 30])  # fewer and more than the ten columns
def test_principal_axes_and_brightness_law_against_the_full_covariance(rows):
    x = np.random.default_rng(0).normal(0.3, 0.5, (rows, 10)) + 0.4
    mean, axes, variance = method.principal_axes(x)
    cov = np.cov(x, rowvar=False)
    np.testing.assert_allclose(axes @ axes.T, np.eye(min(rows - 1, 10)), atol=1e-10)
    np.testing.assert_allclose(axes.T @ np.diag(variance) @ axes, cov, atol=1e-12)
    steps, one = method.sample_steps(1000, 10, "leading"), np.full(10, 0.1)
    lam, w = np.linalg.eigh(cov)
    gain = w @ np.diag(method.gaussian_gain(np.maximum(lam, 0), ORIGINAL, steps)) @ w.T
    a = ORIGINAL[steps[0]]
    m, s = method.gaussian_brightness(mean, axes, variance, ORIGINAL, steps, true_start=False)
    np.testing.assert_allclose(m, one @ (mean - gain @ mean * a**0.5), atol=1e-6)
    np.testing.assert_allclose(s, np.sqrt(one @ gain @ gain @ one), atol=1e-6)
    m, s = method.gaussian_brightness(mean, axes, variance, ORIGINAL, steps, true_start=True)
    np.testing.assert_allclose(m, mean.mean(), atol=1e-12)
    np.testing.assert_allclose(s, np.sqrt(one @ gain @ (a * cov + (1 - a) * np.eye(10)) @ gain @ one), atol=1e-6)


def test_rescaled_trailing_start_has_no_bias():
    mean, axes, variance = method.principal_axes(np.random.default_rng(1).normal(0.6, 0.4, (8, 30)))
    steps = method.sample_steps(1000, 5, "trailing")
    assert method.gaussian_brightness(mean, axes, variance, RESCALED, steps, False)[0] == pytest.approx(mean.mean())


def test_exact_law_refuses_bad_input():
    with pytest.raises(ValueError, match="variance"):
        method.gaussian_gain(np.array([-1.0]), ORIGINAL, np.array([999]))
    with pytest.raises(ValueError, match="x must"):
        method.principal_axes(np.full((3, 4), np.nan))


def test_frechet_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(500, 4)), rng.normal(size=(400, 4)) @ rng.normal(size=(4, 4)) + 1
    cf, cg = np.cov(f, rowvar=False), np.cov(g, rowvar=False)
    wanted = np.sum((f.mean(0) - g.mean(0)) ** 2) + np.trace(cf + cg - 2 * linalg.sqrtm(cf @ cg).real)
    assert method.frechet_distance(f, g) == pytest.approx(wanted, rel=1e-8)
    assert method.frechet_distance(f, f + 2.0) == pytest.approx(16.0, abs=1e-6)
    with pytest.raises(ValueError, match="columns"):
        method.frechet_distance(f, g[:, :3])
    with pytest.raises(ValueError, match="rows"):
        method.frechet_distance(f[:4], g)


def test_offset_noise_adds_one_number_per_image_and_channel():
    eps = torch.zeros(2000, 2, 3, 3)
    shift = method.offset_noise(eps, 0.1, torch.Generator().manual_seed(0))
    assert (shift.std((2, 3)) == 0).all()
    assert shift[:, :, 0, 0].std().item() == pytest.approx(0.1, rel=0.05)


class Recorder(torch.nn.Module):
    """A network that answers zero and remembers what it was asked."""

    no_label = 10

    def forward(self, x, t, label):
        self.x, self.t, self.label = x, t, label
        return torch.zeros_like(x)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_training_loss_is_that_of_its_target(prediction):
    net, x0, label = Recorder(), torch.full((4000, 1, 2, 2), 0.5), torch.zeros(4000, dtype=torch.long)
    # the loss of a network that says zero is the mean square of the target
    loss = float(method.training_loss(net, x0, label, RESCALED, prediction, torch.Generator().manual_seed(0)))
    a = torch.tensor(RESCALED)[net.t][:, None, None, None]
    eps = (net.x - a.sqrt() * 0.5) / (1 - a).sqrt()
    target = a.sqrt() * eps - (1 - a).sqrt() * 0.5 if prediction == "v" else eps
    assert loss == pytest.approx(float(target.square().mean()), rel=1e-4)
    assert float(eps.std()) == pytest.approx(1, rel=0.03)
    assert net.t.min() == 0 and net.t.max() == 999
    assert float((net.label == 10).double().mean()) == pytest.approx(0.1, abs=0.02)


def test_conditional_guides_between_label_and_none():
    class Labels(torch.nn.Module):
        no_label = 10

        def forward(self, x, t, label):
            return x * (1 + label[:, None, None, None])

    x, label = images(3, 1, 4, 4), torch.tensor([0, 1, 2])
    plain = method.conditional(Labels(), label)(x, 5)
    torch.testing.assert_close(plain, x * (1 + label[:, None, None, None]))
    guided = method.conditional(Labels(), label, 3.0, 0.5)(x, 5)
    torch.testing.assert_close(guided, method.guide(x * 11, plain, 3.0, 0.5))


def test_network_shapes_and_conditioning():
    torch.manual_seed(0)
    net, x = method.Denoiser(), torch.randn(2, 1, 28, 28)
    out = net(x, torch.tensor([0, 999]), torch.tensor([3, 10]))
    assert out.shape == x.shape
    assert not torch.equal(out, net(x, torch.tensor([0, 0]), torch.tensor([3, 10])))
    assert not torch.equal(out, net(x, torch.tensor([0, 999]), torch.tensor([4, 10])))
    features = method.Features()
    assert features.features(x).shape == (2, 32) and features(x).shape == (2, 10)


def test_brightness_and_contrast_do_not_clip():
    x = torch.stack([torch.full((1, 2, 2), 1.25), torch.tensor([[[-2.0, 2.0], [-2.0, 2.0]]])])
    np.testing.assert_allclose(method.brightness(x), [1.25, 0])
    assert method.contrast(x) == pytest.approx((16 / 3) ** 0.5 / 2)


def test_training_moves_the_average_and_repeats_itself():
    x, y = torch.zeros(20, 1, 28, 28), torch.arange(20) % 10
    arm = train.ARMS["zero_snr"]
    start = method.Denoiser()
    one, two = (train.train(copy.deepcopy(start), arm, 7, x, y, steps=3, lr=1e-3, ema=0.99, batch=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.leave.weight, start.leave.weight)
    assert train.held_out_loss(one, arm, x, y) == train.held_out_loss(one, arm, x, y)


def test_data_sets():
    try:
        images, labels = fashion_mnist.load("test")
        grey = photographs.load_grey(4)
    except DataError as error:
        pytest.skip(str(error))
    assert images.shape == (10000, 28, 28) and images.dtype == np.uint8 and (np.bincount(labels) == 1000).all()
    assert grey.shape == (919, 4, 4) and -1 <= grey.min() < -0.9 and 0.9 < grey.max() <= 1
    for call in (lambda: fashion_mnist.load("all"), lambda: photographs.load_grey(121)):
        with pytest.raises(ValueError, match="must"):
            call()


@pytest.fixture(scope="module")
def tiny_pipeline(tmp_path_factory) -> str:
    """A folder with a Stable Diffusion pipeline of random weights, with the scheduler that the real one comes with."""
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["a</w>", "b</w>", "<|startoftext|>", "<|endoftext|>"])}
    text = CLIPTextConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=8, bos_token_id=2, eos_token_id=3, pad_token_id=3,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",),
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(4, 4), down_block_types=("DownEncoderBlock2D",) * 2,
                          up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=2, sample_size=16),
        text_encoder=CLIPTextModel(text), tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=8), unet=unet,
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    pipeline.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("fixed", [False, True])
def test_stable_diffusion_samples_as_the_method_does(tiny_pipeline, fixed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # float32 everywhere
    alpha_bar, spacing, prediction, phi = (RESCALED, "trailing", "v", 0.7) if fixed else (ORIGINAL, "leading", "eps", 0.0)
    pipeline = stable_diffusion.load_pipeline(tiny_pipeline, fixed)
    m = stable_diffusion.brightness(pipeline, ["a", "b"], torch.Generator().manual_seed(0), 10, 7.5, phi)
    start, wanted = torch.Generator().manual_seed(0), []
    for prompt in ("a", "b"):
        label, nothing = pipeline.encode_prompt(prompt, pipeline.device, 1, True)

        def model(x, t, label=label, nothing=nothing):
            return method.guide(pipeline.unet(x, t, nothing).sample, pipeline.unet(x, t, label).sample, 7.5, phi)

        steps = method.sample_steps(1000, 10, spacing) + (not fixed)  # Stable Diffusion's leading steps are shifted by one
        latent = method.sample(model, torch.randn(1, 4, 8, 8, generator=start), steps, alpha_bar, prediction)
        with torch.inference_mode():
            wanted.append(float(pipeline.vae.decode(latent / pipeline.vae.config.scaling_factor).sample.mean()))
    np.testing.assert_allclose(m, wanted, rtol=0, atol=3e-6)


def test_pictures_of_a_folder_are_read_in_order(tmp_path):
    with pytest.raises(ValueError, match="folder"):
        list(stable_diffusion.read_pictures(tmp_path))
    for name, mode, colour in (("c", "L", 0), ("a", "RGB", (255, 0, 0)), ("b", "RGBA", (255, 255, 255, 255))):
        Image.new(mode, (6, 4), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    pictures = list(stable_diffusion.read_pictures(tmp_path))
    assert [tuple(p.shape) for p in pictures] == [(1, 3, 4, 6)] * 3
    np.testing.assert_allclose([method.brightness(p)[0] for p in pictures], [-1 / 3, 1, -1], atol=1e-6)
    assert pictures[0][0, 0].min() == 1 and pictures[0][0, 1].max() == -1  # red is the first channel
