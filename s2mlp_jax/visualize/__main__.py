"""`python -m s2mlp_jax.visualize`."""

from s2mlp_jax.visualize.cli import main

if __name__ == "__main__":
    main()
