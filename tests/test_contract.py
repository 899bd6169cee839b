"""Every registered model keeps the plugin contract."""

import pytest
from mnistgen_plugins.diffusion.sid import SiDConfig

from mnistgen import BaseConfig, check_model, list_models, model_class

# A model of three networks takes minutes with its own.
CONFIGS: dict[str, BaseConfig] = {"sid": SiDConfig(width=16, generator_lr=2e-3, critic_lr=4e-3)}


@pytest.mark.parametrize("name", list_models())
def test_contract(name: str) -> None:
    check_model(model_class(name), config=CONFIGS.get(name))
