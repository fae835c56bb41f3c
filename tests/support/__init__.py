"""What tests share: services to test against, logs and runs to test with."""
