"""What works for long: `make soak`. A short sample of each job is among the tests."""
