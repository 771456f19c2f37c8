"""Mixed precision: what each operator costs in accuracy, and the fastest mixture that meets the gates."""
