"""What a configuration and its data are checked for before anything runs."""

from neuron_specialization.config.advice import advice

# Jobs read this file, too.
if workflow.is_main_process:
    for slip in advice(CONFIG):
        announce(f"warning: {slip}")
