"""The models of this server, and the provider that asks for a key."""

from corral.brain.models.anthropic import BASE_URL, AnthropicModel
from corral.catalog.models import ModelTable
from corral.config import Config

__all__ = ["anthropic_model", "model_table"]


def model_table(config: Config) -> ModelTable:
    return ModelTable.packaged().extended(config.models)


def anthropic_model(config: Config, models: ModelTable) -> AnthropicModel:
    return AnthropicModel(
        api_key=config.anthropic_api_key.reveal() if config.anthropic_api_key else None,
        base_url=config.anthropic_base_url or BASE_URL,
        models=models,
    )
