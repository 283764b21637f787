"""Scene coordinate regression forests."""
