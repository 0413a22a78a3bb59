"""Plans of several training runs: cross-validations, and sweeps over variants of a configuration."""
