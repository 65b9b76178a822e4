"""The command line: one file per subcommand, thin; the work lies in the floors below."""
