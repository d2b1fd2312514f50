"""Tables and fronts as pages and plots."""
