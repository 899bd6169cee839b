"""Every registered model keeps the plugin contract."""

import pytest

from mnistgen import check_model, list_models, model_class


@pytest.mark.parametrize("name", list_models())
def test_contract(name: str) -> None:
    check_model(model_class(name))
