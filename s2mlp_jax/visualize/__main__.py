"""`python -m s2mlp_jax.visualize`."""

import sys

from s2mlp_jax.visualize.cli import main

if __name__ == "__main__":
    sys.exit(main())
