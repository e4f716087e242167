"""Views of what happened: progress, tables, reports. Nothing computes here, and nothing depends on it but the command."""
