"""The command that writes data sets to disk: python -m s2mlp_jax.data.prepare."""
