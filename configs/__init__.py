"""From a YAML file and the command line to checked settings; errors, options, logging, cores.

    from configs import load_config

    config = load_config("kitti", ["training.epochs=5"])

May import: configs.schema.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.config_files import load_config
    from configs.errors import CacheError, ConfigError, UserError
    from configs.schema.config import Config
else:
    from configs.doors import open_doors

    __getattr__, __dir__ = open_doors(
        __name__,
        {
            "CacheError": "configs.errors",
            "Config": "configs.schema.config",
            "ConfigError": "configs.errors",
            "UserError": "configs.errors",
            "load_config": "configs.config_files",
        },
    )

__all__ = [
    "CacheError",
    "Config",
    "ConfigError",
    "UserError",
    "load_config",
]
