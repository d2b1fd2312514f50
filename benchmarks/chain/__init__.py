"""Networks of many tasks, taken the whole way from `convert` to a session on each engine."""
