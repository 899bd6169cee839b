"""Every registered model keeps the plugin contract."""

import pytest
from mnistgen_plugins.diffusion.ddpm import DDPMConfig
from mnistgen_plugins.diffusion.edm import EDMConfig
from mnistgen_plugins.diffusion.flow import FlowConfig
from mnistgen_plugins.diffusion.meanflow import MeanFlowConfig
from mnistgen_plugins.diffusion.sid import SiDConfig

from mnistgen import BaseConfig, check_model, list_models, model_class

# The rules hold at any width, and a network of the default one takes minutes.
CONFIGS: dict[str, BaseConfig] = {
    "ddpm": DDPMConfig(width=16),
    "edm": EDMConfig(width=16),
    "flow": FlowConfig(width=16),
    "meanflow": MeanFlowConfig(width=16),
    "sid": SiDConfig(width=16, generator_lr=2e-3, critic_lr=4e-3),
}

SLOW = {"ddpm", "meanflow"}  # more than a minute each; edm and flow share their code


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in list_models()]
)
def test_contract(name: str) -> None:
    check_model(model_class(name), config=CONFIGS.get(name))
