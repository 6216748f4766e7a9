"""Many runs: settings, order, failures and speed."""
