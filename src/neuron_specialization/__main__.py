"""``python -m neuron_specialization``."""

from neuron_specialization.cli import main

if __name__ == "__main__":
    main()
