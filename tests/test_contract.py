"""Every registered model keeps the plugin contract."""

import math

import pytest
from mnistgen_plugins.autoregressive.axial import AxialConfig
from mnistgen_plugins.diffusion import base
from mnistgen_plugins.diffusion.ddpm import DDPMConfig
from mnistgen_plugins.diffusion.edm import EDMConfig
from mnistgen_plugins.diffusion.flow import FlowConfig
from mnistgen_plugins.diffusion.meanflow import MeanFlowConfig
from mnistgen_plugins.diffusion.sid import SiDConfig
from mnistgen_plugins.gan.dcgan import DCGANConfig
from mnistgen_plugins.gan.r3gan import R3GANConfig
from mnistgen_plugins.gan.wgan_gp import WGANGPConfig
from mnistgen_plugins.vae.latent_flow_vae import LatentFlowVAEConfig
from mnistgen_plugins.vae.vae import VAEConfig
from mnistgen_plugins.vae.vqvae import VQVAEConfig

from mnistgen import BaseConfig, list_models
from mnistgen.registry import model_class
from mnistgen.testing import check_model

# The rules hold at any width, and a network of the default one takes minutes.
NARROW: dict[str, BaseConfig] = {
    "axial": AxialConfig(width=32, heads=2, layers=2, channels=24, inner_layers=1),
    "dcgan": DCGANConfig(width=16),
    "ddpm": DDPMConfig(width=8),
    "edm": EDMConfig(width=8),
    "flow": FlowConfig(width=8, lr=5e-3),
    "latent_flow_vae": LatentFlowVAEConfig(width=8, prior_width=64),
    "meanflow": MeanFlowConfig(width=8),
    "r3gan": R3GANConfig(width=8),
    "sid": SiDConfig(width=8),
    "vae": VAEConfig(width=8),
    "vqvae": VQVAEConfig(width=16, prior_width=32, prior_layers=1),
    "wgan_gp": WGANGPConfig(width=8),
}
# What learns 64 images within the steps of the check.
LEARNING: dict[str, BaseConfig] = {
    **NARROW,
    "ddpm": DDPMConfig(width=16),
    "edm": EDMConfig(width=16),
    "meanflow": MeanFlowConfig(width=16),
    "sid": SiDConfig(width=16, generator_lr=2e-3, critic_lr=4e-3),
}
SOON = {"iwae"}  # learns the images within seconds
LATE = {"ddpm", "edm", "meanflow", "sid"}  # within minutes; they share flow's code


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LATE else name for name in list_models()]
)
def test_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every rule but those for which a model learns 64 images; those too of models that learn them soon."""
    monkeypatch.setattr("mnistgen.testing.QUICK_SECONDS", math.inf)  # no rule is left out on a busy machine
    monkeypatch.setattr(base, "ODE_STEPS", 4)  # no rule asks how exact the solution is
    check_model(model_class(name), config=NARROW.get(name), quick=name not in SOON)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long if name in LATE else pytest.mark.slow)
        for name in list_models()
        if name not in SOON
    ],
)
def test_the_whole_contract(name: str) -> None:
    check_model(model_class(name), config=LEARNING.get(name))
