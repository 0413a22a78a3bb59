from mobilenet_jax.reporting import published_config
from mobilenet_jax.training import config


def test_the_paths_of_a_configuration_are_those_whose_folders_are_private():
    assert published_config._PATHS == config._PATHS
