"""The configuration, from YAML.

Core functions take plain arguments; the pipelines and the rooms ``runs``, ``launch``, ``measuring``
and ``peer`` see the tree.
"""

from afcore.config.cache_section import CacheConfig
from afcore.config.changes import change_keys
from afcore.config.data_section import DataConfig
from afcore.config.model_section import AdapterConfig, ModelConfig
from afcore.config.modes import (
    CACHING_MODES,
    CHOOSING_MODES,
    FREEZING_MODES,
    MODES,
    OWN_MODES,
    PEER_MODES,
)
from afcore.config.prices_section import PricesConfig
from afcore.config.reading import check_extras, load_config, parse_config, parse_overrides
from afcore.config.search_section import Range, SearchConfig
from afcore.config.tracking_section import RetrainConfig, TrackingConfig
from afcore.config.training_section import TrainingConfig
from afcore.config.tree import Config
from afcore.config.workers_section import WorkersConfig

__all__ = [
    "CACHING_MODES",
    "CHOOSING_MODES",
    "FREEZING_MODES",
    "MODES",
    "OWN_MODES",
    "PEER_MODES",
    "AdapterConfig",
    "CacheConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "PricesConfig",
    "Range",
    "RetrainConfig",
    "SearchConfig",
    "TrackingConfig",
    "TrainingConfig",
    "WorkersConfig",
    "change_keys",
    "check_extras",
    "load_config",
    "parse_config",
    "parse_overrides",
]
