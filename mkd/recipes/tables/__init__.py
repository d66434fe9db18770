"""Tables and figures of several runs: what they need, the training of it, results, plan and pages."""
