"""Many runs: seeds, domains, work directories and their lock."""
