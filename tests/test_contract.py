"""Every registered model keeps the plugin contract."""

from dataclasses import replace

import pytest
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
CONFIGS: dict[str, BaseConfig] = {
    "dcgan": DCGANConfig(width=16),
    "ddpm": DDPMConfig(width=16),
    "edm": EDMConfig(width=16),
    "flow": FlowConfig(width=8, lr=5e-3),
    "latent_flow_vae": LatentFlowVAEConfig(width=8, prior_width=64),
    "meanflow": MeanFlowConfig(width=16),
    "r3gan": R3GANConfig(width=8),
    "sid": SiDConfig(width=16, generator_lr=2e-3, critic_lr=4e-3),
    "vae": VAEConfig(width=8),
    "vqvae": VQVAEConfig(width=16, prior_width=32, prior_layers=1),
    "wgan_gp": WGANGPConfig(width=8),
}

LONG = {"ddpm", "edm", "meanflow", "sid"}  # half a minute to several; they share flow's code


@pytest.mark.parametrize("name", list_models())
def test_contract(name: str) -> None:
    """Every rule; of the models that learn slowly, those that need no training for long."""
    config = CONFIGS.get(name)
    if name in LONG:
        assert config is not None
        check_model(model_class(name), config=replace(config, width=8), quick=True)  # type: ignore[call-arg]
    else:
        check_model(model_class(name), config=config)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LONG))
def test_the_whole_contract(name: str) -> None:
    check_model(model_class(name), config=CONFIGS.get(name))
