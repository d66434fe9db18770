"""What tests of training share: tiny networks, steps and runs."""
